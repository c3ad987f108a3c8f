# SPDX-License-Identifier: Apache-2.0
"""Greedy speculative decoding of several prompts at once, from token ids to token ids."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from graphrt.errors import ConfigError, sentence
from graphrt.models.drafts import PromptLookup, padded
from graphrt.models.greedy import GreedyBuffers
from graphrt.models.mamba2 import Mamba2LM
from graphrt.runtime import DecodeRuntime


@dataclass(frozen=True, slots=True)
class Completion:
    """What one prompt was continued with.

    token_ids: the new tokens, without the end token. stopped: whether an end token came, rather
    than max_new_tokens. text: what the tokens read, empty when decoding from ids.
    """

    token_ids: tuple[int, ...]
    stopped: bool
    text: str = ""


@dataclass(slots=True)
class DecodeStats:
    """What a call cost. new_tokens are those of the completions, end tokens included.

    prompt_tokens went through prefill, which also gives each prompt's first new token; the others
    are launched_tokens. row_launches counts every request of every launch.
    """

    prompt_tokens: int = 0
    new_tokens: int = 0
    launched_tokens: int = 0
    launches: int = 0
    row_launches: int = 0
    prefill_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def tokens_per_launch(self) -> float:
        """New tokens a launch gave each of its requests, 1 … T; 0 without launches."""
        return self.launched_tokens / self.row_launches if self.row_launches else 0.0

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all requests together, prefill's time included."""
        return self.new_tokens / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class _Request:
    """One prompt under way. ``slot`` is -1 outside the runtime."""

    index: int
    prompt: Sequence[int]
    lookup: PromptLookup
    new: list[int] = field(default_factory=list)
    slot: int = -1
    done: bool = False
    stopped: bool = False

    def take(self, tokens: Sequence[int], limit: int, end: frozenset[int]) -> list[int]:
        """Append what of ``tokens`` counts; return it, the end token included."""
        taken: list[int] = []
        for token in tokens:
            taken.append(token)
            self.stopped = token in end
            self.done = self.stopped or len(self.new) + len(taken) == limit
            if self.done:
                break
        self.new += taken
        self.lookup.extend(taken)
        return taken


class GreedyDecoder:
    """Continues prompts given as token ids: prefill, drafts, launches, until every one is done."""

    def __init__(self, model: Mamba2LM, runtime: DecodeRuntime) -> None:
        """Take a model and a runtime that captured its GreedyStep; see `runtime_config`."""
        self._model = model
        self._runtime = runtime
        self._end = frozenset(model.config.eos_token_ids)

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        tokens: int | None = None,
        on_tokens: Callable[[int, list[int]], object] | None = None,
    ) -> tuple[list[Completion], DecodeStats]:
        """Return a completion for each prompt, in order, and what they cost.

        tokens: T of every launch, by default the runtime's largest; it does not change the
        completions. on_tokens: called with a prompt's index and its new tokens as they come, the
        end token left out. Prompts beyond the largest bucket wait for a row. The slots taken here
        are released whatever is raised. Raises ConfigError for max_new_tokens < 1, an empty prompt,
        or a token outside the vocabulary.
        """
        self._check(prompts, max_new_tokens)
        started = time.perf_counter()
        stats = DecodeStats()
        requests = [_Request(i, ids, PromptLookup(ids)) for i, ids in enumerate(prompts)]
        waiting, active = deque(requests), list[_Request]()
        capacity = self._runtime.config.buckets[-1]

        def take(request: _Request, new: Sequence[int]) -> int:
            taken = request.take(new, max_new_tokens, self._end)
            stats.new_tokens += len(taken)
            text = taken[:-1] if request.stopped else taken
            if on_tokens and text:
                on_tokens(request.index, text)
            return len(taken)

        try:
            while waiting or active:
                while waiting and len(active) < capacity:
                    request = waiting.popleft()
                    stats.prompt_tokens += len(request.prompt)
                    before = time.perf_counter()
                    logits, prefilled = self._model.prefill(request.prompt)
                    first = int(logits.argmax())
                    stats.prefill_seconds += time.perf_counter() - before
                    take(request, [first])
                    if not request.done:
                        request.slot = self._runtime.admit(prefilled)
                        active.append(request)
                if not active:
                    break
                stats.launches += 1
                stats.row_launches += len(active)
                for request, kept in zip(active, self._launch(active, tokens), strict=True):
                    stats.launched_tokens += take(request, kept)
                    if request.done:
                        self._release(request)
                active = [request for request in active if not request.done]
        finally:
            for request in requests:
                if request.slot >= 0:
                    self._release(request)
        stats.seconds = time.perf_counter() - started
        return [self._completion(request) for request in requests], stats

    def _launch(self, active: Sequence[_Request], tokens: int | None) -> list[list[int]]:
        """Launch one row for each request; return each one's kept tokens."""
        drafts = (tokens or self._runtime.config.tokens) - 1
        rows = [
            [request.new[-1], *padded(request.lookup.propose(drafts), drafts, request.new[-1])]
            for request in active
        ]
        slots = [request.slot for request in active]
        buffers: GreedyBuffers = self._runtime.launch(slots, tokens=tokens, input_ids=rows)
        next_ids = buffers.next_ids[: len(rows)].tolist()
        counts = buffers.counts[: len(rows)].tolist()
        return [ids[:count] for ids, count in zip(next_ids, counts, strict=True)]

    def _release(self, request: _Request) -> None:
        slot, request.slot = request.slot, -1
        self._runtime.release(slot)

    def _completion(self, request: _Request) -> Completion:
        kept = request.new[:-1] if request.stopped else request.new
        return Completion(tuple(kept), request.stopped)

    def _check(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        if max_new_tokens < 1:
            raise ConfigError(
                sentence("max_new_tokens", max_new_tokens, "must be ≥ 1", "ask for a token")
            )
        vocab = self._model.config.vocab_size
        for index, ids in enumerate(prompts):
            if not len(ids):
                raise ConfigError(
                    sentence(
                        f"prompts[{index}]", "empty", "needs a token to go on from", "add text"
                    )
                )
            if min(ids) < 0 or max(ids) >= vocab:
                raise ConfigError(
                    sentence(
                        f"prompts[{index}]",
                        f"ids {min(ids)} … {max(ids)}",
                        f"token ids are 0 … {vocab - 1}",
                        "use the model's own tokenizer",
                    )
                )
