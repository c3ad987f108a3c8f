# SPDX-License-Identifier: Apache-2.0
"""Drives a whole DecodeRuntime through random requests and holds it to the float64 oracle.

`ChainDriver` drives the chain alone; here admission, the choice of the bucket, padding, the rows
and the ways to accept are the runtime's. What no launch may read is NaN before it: released slots,
ring rows outside a request's history, scratch, outputs, and inputs of padding rows.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from graphrt import AcceptError, DecodeRuntime, ring
from graphrt.capture.buffers import named_tensors
from graphrt.seeds import slot_seed
from graphrt.step import ChainStep
from tests.helpers.cases import Case, random_request
from tests.helpers.checks import (
    bound,
    check_rows,
    check_same_bits,
    check_stored,
    check_zeros,
)
from tests.helpers.contents import (
    CACHES,
    CURSORS,
    WILD,
    appended_conv_rows,
    appended_rows,
    contents,
    poison_outside_history,
    poison_slot,
)
from tests.helpers.oracle import ChainOracle, Perturbation
from tests.helpers.runtimes import poison_scratch, stacked

WAYS = ("mapping", "sequence", "tensor", "bucket", "direct", "wild", "forgotten")


class RuntimeDriver:
    """A runtime with the chain captured, one oracle a layer, and the cursors it should have."""

    def __init__(
        self, case: Case, perturbation: Perturbation | None = None, perturb_from: int = 0
    ) -> None:
        """Capture, and poison every slot."""
        self.case = case
        self.rng = random.Random(case.seed)
        self.generator = torch.Generator().manual_seed(case.seed)
        weights = [case.weights(self.generator) for _ in range(case.layers)]
        self.oracles = [
            ChainOracle(case.shape(), layer, case.activation_dtype, perturbation, perturb_from)
            for layer in weights
        ]
        self.limit = bound(case.activation_dtype, kernels=False)
        self.runtime = DecodeRuntime(case.config("cpu"))
        self.config = self.runtime.config
        self.runtime.capture(ChainStep(self.config, weights, gated=case.has_z))
        for slot in range(case.slots):
            poison_slot(self.runtime.cache, slot)
        self.cursors: dict[int, ring.SlotCursors] = {}  # of admitted slots
        self.accepted: dict[int, int] = {}
        self.seeds: dict[int, int] = {}
        self.used: set[int] = set()
        self.rows: list[int] = []
        self.admissions = 0
        self.count: Counter[object] = Counter()  # of what a test wants to have happened
        self.worst = 0.0

    def run(self, launches: int) -> None:
        """Make ``launches`` random launches and check each of them."""
        for _ in range(launches):
            self._recycle()
            rows, tokens = self._composition(), self.rng.choice(self.case.launch_tokens)
            self.launch(rows, tokens)
            self.accept(list(rows), tokens)

    # -- requests ---------------------------------------------------------------------------------

    def _recycle(self) -> None:
        spoilt = any(oracle.perturbed for oracle in self.oracles)  # it must be launched once more
        if self.cursors and self.rng.random() < 0.1 and not spoilt:
            self.release(self.rng.choice(sorted(self.cursors)))
        if not self.cursors or (len(self.cursors) < self.case.slots and self.rng.random() < 0.3):
            self.admit()

    def admit(self) -> None:
        """Admit a random request, or an empty one, to runtime and oracles alike."""
        request = random_request(self.case, self.generator) if self.rng.random() < 0.7 else None
        seed = self.rng.choice([None, self.rng.getrandbits(62)])
        slot = self.runtime.admit(request, seed=seed)
        assert slot == min(set(range(self.case.slots)) - set(self.cursors))
        self.seeds[slot] = slot_seed(self.config.seed, self.admissions) if seed is None else seed
        self.admissions += 1
        self.cursors[slot], self.accepted[slot] = ring.SlotCursors(), 0
        for layer, oracle in enumerate(self.oracles):
            if request is None:
                oracle.admit(slot)
            else:
                oracle.admit(slot, request.state[layer], request.conv_tail[layer])
            self._check_stored(layer, slot, "admitted")
        self.count["prefilled"] += request is not None
        self.count["recycled"] += slot in self.used
        self.used.add(slot)

    def release(self, slot: int) -> None:
        """Release ``slot`` and leave nothing readable behind."""
        self.runtime.release(slot)
        del self.cursors[slot], self.accepted[slot], self.seeds[slot]
        poison_slot(self.runtime.cache, slot)

    # -- one launch -------------------------------------------------------------------------------

    def _composition(self) -> Sequence[int]:
        """Return rows: those of before or others, in the same list, another one or a tuple."""
        rng, admitted = self.rng, sorted(self.cursors)
        rows = self.rows
        if rng.random() < 0.7 or not rows or not set(rows) <= set(admitted):
            rows = rng.sample(admitted, rng.randint(1, min(len(admitted), self.config.buckets[-1])))
        if rng.random() < 0.5:
            self.rows[:] = rows
            return self.rows
        return rng.choice((list, tuple))(rows)

    def launch(self, rows: Sequence[int], tokens: int) -> None:
        """Launch ``rows`` with random inputs and check everything."""
        case, runtime, live = self.case, self.runtime, list(rows)
        bucket = min(size for size in case.buckets if size >= len(live))
        layers = [
            case.inputs([True] * len(live), tokens, self.generator) for _ in range(case.layers)
        ]
        broken = self._advance(live, tokens)
        at = {slot: self.cursors[slot] for slot in live}
        poison_outside_history(runtime.cache, at)
        poison_scratch(runtime.cache)
        buffers = runtime.buffers(bucket, tokens)
        for tensor in named_tensors(buffers).values():
            tensor.fill_(math.nan)
        expected = contents(runtime.cache)

        asked = None if tokens == case.tokens and self.rng.random() < 0.5 else tokens
        assert runtime.launch(rows, tokens=asked, **stacked(layers)) is buffers

        where = f"launch {self.count['launches']}, rows {live} of bucket {bucket}, T {tokens}"
        self._check_cursors(where)
        for layer, (oracle, inputs) in enumerate(zip(self.oracles, layers, strict=True)):
            y = oracle.launch(live, inputs)
            worst = check_rows(buffers.out[: len(live), layer], y, self.limit, f"y of {where}")
            self.worst = max(self.worst, worst)
        check_zeros(buffers.out[len(live) :], f"y of padding rows, {where}")
        self._check_caches(at, tokens, expected, where)
        self._check_report(broken)
        self.count["launches"] += 1
        self.count["padding"] += bucket - len(live)
        self.count[bucket, tokens] += 1

    def _advance(self, live: list[int], tokens: int) -> dict[int, int]:
        """Update the expected cursors; return the counts that the chain must clamp, by slot."""
        broken = {}
        for slot in live:
            before, count = self.cursors[slot], self.accepted[slot]
            if ring.clamp_accepted(count, before.last_tokens) != count:
                broken[slot] = count
            after = ring.advance(
                before,
                count,
                tokens,
                self.case.window,
                self.config.ring_rows,
                self.config.conv_ring_rows,
            )
            self.cursors[slot], self.accepted[slot] = after, 0
            self.seeds[slot] += 1
            self.count["flushes"] += after.flushed
            self.count["wraps"] += after.ring_start < before.ring_start
        return broken

    def _check_cursors(self, when: str) -> None:
        """Require every cursor of every slot, admitted or not, to be what `graphrt.ring` says."""
        cursors = self.runtime.cache.cursors
        got = torch.stack([getattr(cursors, name).long() for name in CURSORS])
        expected = torch.full_like(got, WILD)
        for slot, at in self.cursors.items():
            places = (at.held, at.ring_start, at.conv_pos, at.flushed, at.last_tokens)
            expected[:, slot] = torch.tensor([*places, self.seeds[slot], self.accepted[slot]])
        for name, row, expected_row in zip(CURSORS, got, expected, strict=True):
            check_same_bits(row, expected_row, f"{name}, {when}")

    def _check_caches(
        self,
        at: dict[int, ring.SlotCursors],
        tokens: int,
        expected: dict[str, Tensor],
        where: str,
    ) -> None:
        """Require writes to appended ring rows and flushed states alone, and these states right."""
        got = contents(self.runtime.cache)
        for slot, cursors in at.items():
            new = appended_rows(cursors, tokens, self.config)
            for name in ("x_ring", "b_ring", "dt_ring"):
                expected[name][:, slot, :, new] = got[name][:, slot, :, new]
            new = appended_conv_rows(cursors, tokens, self.config)
            expected["conv_ring"][:, slot, new] = got["conv_ring"][:, slot, new]
            if cursors.flushed:
                expected["state"][:, slot] = got["state"][:, slot]
                for layer in range(self.case.layers):
                    self._check_stored(layer, slot, where)
        for name in CACHES:
            check_same_bits(got[name], expected[name], f"{name}, {where}")

    def _check_stored(self, layer: int, slot: int, when: str) -> None:
        oracle, stored = self.oracles[layer], self.runtime.cache.state[layer, slot].clone()
        stochastic = self.case.rounding == "stochastic"
        what = f"state of layer {layer}, slot {slot}, {when}"
        check_stored(stored, oracle.state[slot], self.limit, stochastic, what)
        if stored.dtype != torch.float32:
            oracle.adopt(slot, stored)

    def _check_report(self, broken: dict[int, int]) -> None:
        """Require the counts that were clamped, and no others, to be reported once."""
        if broken:
            with pytest.raises(AcceptError) as caught:
                self.runtime.check()
            said = dict(sorted(broken.items()))
            assert str(caught.value).startswith(f"accepted={said}: ")
            self.count["clamped"] += 1
        self.runtime.check()

    # -- accepting --------------------------------------------------------------------------------

    def accept(self, rows: list[int], tokens: int) -> None:
        """Accept random counts in a random way, sometimes after others that must not count."""
        if self.rng.random() < 0.2:
            self._accept(rows, tokens, self.rng.choice(WAYS))
        self._accept(rows, tokens, self.rng.choice(WAYS))
        self._check_cursors("after accept")
        for oracle in self.oracles:
            assert oracle.last is not None
            kept = [ring.clamp_accepted(self.accepted[slot], tokens) for slot in oracle.last.slots]
            oracle.commit(kept)

    def _accept(self, rows: list[int], tokens: int, way: str) -> None:
        rng, runtime = self.rng, self.runtime
        counts = [rng.choice([0, tokens, *range(1, tokens + 1)]) for _ in rows]
        if way == "wild":
            counts = [rng.choice([-1, WILD, tokens + 1, -WILD, tokens]) for _ in rows]
        by_slot = dict(zip(rows, counts, strict=True))
        self.count[way] += 1
        if way == "forgotten":
            return
        if way == "mapping":  # of some of the rows, in any order; the others keep what they had
            named = rng.sample(rows, rng.randint(0, len(rows)))
            by_slot = {slot: by_slot[slot] for slot in named}
            runtime.accept(by_slot)
        elif way == "sequence":
            runtime.accept(rng.choice((list, tuple))(counts))
        elif way == "tensor":
            runtime.accept(torch.tensor(counts, dtype=torch.int32))
        elif way == "bucket":
            bucket = min(size for size in self.case.buckets if size >= len(rows))
            padded = [*counts, *[WILD] * (bucket - len(rows))]
            runtime.accept(torch.tensor(padded, dtype=torch.int32))
        else:
            for slot, count in by_slot.items():
                runtime.accepted[slot] = count
        self.accepted.update(by_slot)
