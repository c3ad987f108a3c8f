# SPDX-License-Identifier: Apache-2.0
"""Greedy speculative generation of text: a model directory, prompts, and their continuations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import torch
from tokenizers import Tokenizer

from graphrt.capture.bucket_graphs import CaptureProgress
from graphrt.config import RuntimeConfig, resolve_device
from graphrt.models.decode import Completion, DecodeStats, GreedyDecoder
from graphrt.models.greedy import GreedyStep
from graphrt.models.mamba2 import Mamba2LM
from graphrt.models.text import TextStream, read_tokenizer
from graphrt.runtime import DecodeRuntime


class TextGenerator:
    """A model, its tokenizer and a captured runtime: text in, text out.

    with TextGenerator.from_directory("model") as generator:
        completions, stats = generator.generate(["def main("], max_new_tokens=100)
    """

    def __init__(self, model: Mamba2LM, tokenizer: Tokenizer, runtime: DecodeRuntime) -> None:
        """Take a runtime that captured the model's GreedyStep, and own it from now on."""
        self.model = model
        self.tokenizer = tokenizer
        self.runtime = runtime
        self._decoder = GreedyDecoder(model, runtime)

    @classmethod
    def from_directory(
        cls,
        directory: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        slots: int = 8,
        tokens: int = 6,
        window: int = 16,
        launch_tokens: Sequence[int] = (),
        progress: Callable[[CaptureProgress], object] | None = None,
    ) -> TextGenerator:
        """Load ``directory``, build a runtime for the model, and capture it.

        dtype: of weights and activations, default as stored on CUDA and fp32 on the CPU. The other
        arguments are `runtime_config`'s and DecodeRuntime.capture's. Raises what they raise, and
        CheckpointError for a directory that cannot be loaded.
        """
        device = resolve_device(device)
        if dtype is None and device.type == "cpu":
            dtype = torch.float32
        tokenizer = read_tokenizer(directory)
        model = Mamba2LM.from_pretrained(directory, device, dtype)
        config = runtime_config(
            model, slots=slots, tokens=tokens, window=window, launch_tokens=launch_tokens
        )
        runtime = DecodeRuntime(config)
        try:
            runtime.capture(GreedyStep(model), progress=progress)
        except BaseException:
            runtime.close()
            raise
        return cls(model, tokenizer, runtime)

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        *,
        tokens: int | None = None,
        on_text: Callable[[int, str], object] | None = None,
    ) -> tuple[list[Completion], DecodeStats]:
        """Continue ``prompts``; as `GreedyDecoder.decode`, with text.

        on_text: called with a prompt's index and each piece of its text as it comes; the pieces
        joined are the completion's text.
        """
        encoded = [self.tokenizer.encode(prompt).ids for prompt in prompts]
        streams = [TextStream(self.tokenizer, ids) for ids in encoded]
        pieces: list[list[str]] = [[] for _ in prompts]

        def give(index: int, piece: str) -> None:
            if piece:
                pieces[index].append(piece)
                if on_text:
                    on_text(index, piece)

        completions, stats = self._decoder.decode(
            encoded,
            max_new_tokens,
            tokens=tokens,
            on_tokens=lambda index, new: give(index, streams[index].push(new)),
        )
        for index, stream in enumerate(streams):
            give(index, stream.finish())
        texts = ["".join(piece) for piece in pieces]
        return [
            replace(done, text=text) for done, text in zip(completions, texts, strict=True)
        ], stats

    def close(self) -> None:
        """Close the runtime."""
        self.runtime.close()

    def __enter__(self) -> TextGenerator:
        """Return the generator itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the runtime."""
        self.close()


def runtime_config(
    model: Mamba2LM,
    *,
    slots: int,
    tokens: int,
    window: int,
    launch_tokens: Sequence[int] = (),
    state_dtype: torch.dtype = torch.float32,
) -> RuntimeConfig:
    """Return the configuration of a runtime for ``model``; buckets are powers of 2 up to slots."""
    buckets = [1 << bit for bit in range(slots.bit_length()) if 1 << bit < slots]
    return RuntimeConfig(
        shape=model.config.chain_shape,
        layers=model.config.num_hidden_layers,
        slots=slots,
        tokens=tokens,
        window=window,
        buckets=(*buckets, slots),
        launch_tokens=tuple(launch_tokens),
        state_dtype=state_dtype,
        activation_dtype=model.dtype,
        device=model.device,
    )
