# SPDX-License-Identifier: Apache-2.0
"""Drives a chain through random launches and checks everything it may and may not write.

The same driver runs the twins, the interpreted and the compiled kernels: a `BoundChain` decides by
its device. Before a launch, every value that the chain must not read is NaN (or a wild integer):
slots without a request, ring rows outside a request's history, scratch, outputs, inputs of padding
rows. After it, outputs are compared with the oracle, cursors with `graphrt.ring`, and the caches,
bit for bit, with what they should hold.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from graphrt import ring
from graphrt.cache import ReplayCache
from graphrt.config import PdlLinks
from graphrt.kernels.chain import BoundChain, runs_kernels
from graphrt.kernels.conv1d import conv1d
from graphrt.kernels.pdl import NO_LINKS
from graphrt.kernels.tensors import NO_CLAMP, LayerInputs, Scratch
from graphrt.kernels.tuning import Conv1dLaunch
from tests.helpers.cases import Case, random_request
from tests.helpers.checks import (
    INTERPRETED,
    Mismatch,
    bound,
    check_dt,
    check_rows,
    check_same_bits,
    check_stored,
    check_zeros,
)
from tests.helpers.contents import (
    CACHES,
    CURSORS,
    FLOAT_SCRATCH,
    WILD,
    appended_conv_rows,
    appended_rows,
    contents,
    poison_outside_history,
    poison_slot,
    split_conv_out,
)
from tests.helpers.oracle import ChainOracle, Perturbation
from tests.helpers.row_cursors import in_order
from tests.helpers.tensors import (
    check_unwritten,
    flat_copies,
    place_inputs,
    place_weights,
    poisoned,
    rows_of,
    storage_of,
    to_cpu,
)


@dataclass
class Report:
    """What a run did, for tests to assert that it did enough, and its largest relative error."""

    launches: int = 0
    flushes: int = 0
    wraps: int = 0
    conv_wraps: int = 0
    padding_rows: int = 0
    recycled: int = 0
    prefilled: int = 0
    clamped: int = 0
    forgotten: int = 0
    worst: float = 0.0
    seen: set[tuple[int, int]] = field(default_factory=set)  # (bucket, T)


class ChainDriver:
    """One small cache with a chain for every (bucket, T), its oracles, and their expected state."""

    def __init__(
        self,
        case: Case,
        device: torch.device | str = "cpu",
        *,
        pdl: PdlLinks | None = None,
        perturbation: Perturbation | None = None,
        perturb_from: int = 0,
        show_conv_out: bool = True,
    ) -> None:
        """Build everything; the first launch is made by `run` or `step`.

        show_conv_out: whether the oracle may see the chain's convolution. Without it the oracle
        rounds its own, and the outputs alone are held against it.
        """
        self.case = case
        self.config = case.config(device, pdl)
        self.device = self.config.device
        self.rng = random.Random(case.seed)
        self.generator = torch.Generator().manual_seed(case.seed)
        self.show_conv_out = show_conv_out
        self.cache = ReplayCache(self.config)
        self.report = Report()
        on_cpu = [case.weights(self.generator) for _ in range(case.layers)]
        self.weights = [place_weights(weights, self.device) for weights in on_cpu]
        self.oracles = [
            ChainOracle(case.shape(), weights, case.activation_dtype, perturbation, perturb_from)
            for weights in on_cpu
        ]
        self.cursors: dict[int, ring.SlotCursors] = {}  # of admitted slots
        self.accepted: dict[int, int] = {}
        self.seeds: dict[int, int] = {}
        self.used: set[int] = set()
        self.chains = {
            (bucket, tokens): BoundChain(
                self.cache,
                torch.full((bucket,), -1, dtype=torch.int32, device=self.device),
                tokens,
            )
            for bucket in case.buckets
            for tokens in case.launch_tokens
        }
        self.kernels = self.device.type == "cuda" or INTERPRETED
        self.limit = bound(case.activation_dtype, self.kernels)
        # x, B and C once rounded, the state is folded in fp32 whatever the activations are.
        self.state_limit = bound(torch.float32, self.kernels) if show_conv_out else self.limit
        for slot in range(case.slots):
            poison_slot(self.cache, slot)

    def run(self, launches: int) -> Report:
        """Make ``launches`` random launches and check each of them."""
        weights_before = [flat_copies(weights) for weights in self.weights]
        for _ in range(launches):
            self._recycle()
            self.step(*self._composition())
        for weights, before in zip(self.weights, weights_before, strict=True):
            check_unwritten(weights, before, "weights")
        return self.report

    def run_advance(self, chain: BoundChain) -> None:
        """Enqueue advance. To be overridden by who wants to see what it does."""
        chain.advance()

    def run_layer(self, chain: BoundChain, layer: int, inputs: LayerInputs, out: Tensor) -> None:
        """Enqueue one layer. To be overridden by who wants to see what it does."""
        chain.layer(layer, inputs, self.weights[layer], out)

    # -- requests ---------------------------------------------------------------------------------

    def _recycle(self) -> None:
        spoilt = any(oracle.perturbed for oracle in self.oracles)  # it must be launched once more
        if self.cursors and self.rng.random() < 0.1 and not spoilt:
            self.release(self.rng.choice(sorted(self.cursors)))
        free = sorted(set(range(self.case.slots)) - set(self.cursors))
        if free and (not self.cursors or self.rng.random() < 0.4):
            self.admit(self.rng.choice(free), prefilled=self.rng.random() < 0.7)

    def admit(self, slot: int, prefilled: bool) -> None:
        """Admit a random request to ``slot``, or an empty one, to cache and oracles alike."""
        request = random_request(self.case, self.generator) if prefilled else None
        self.seeds[slot] = self.rng.getrandbits(62)
        self.cache.admit(slot, request, self.seeds[slot])
        self.cursors[slot] = ring.SlotCursors()
        self.accepted[slot] = 0
        for layer, oracle in enumerate(self.oracles):
            if request is None:
                oracle.admit(slot)
            else:
                oracle.admit(slot, request.state[layer], request.conv_tail[layer])
            self._check_stored(layer, slot, self.cache.state[layer, slot], "admitted state")
        self.report.recycled += slot in self.used
        self.report.prefilled += prefilled
        self.used.add(slot)

    def release(self, slot: int) -> None:
        """Forget ``slot``'s request and leave nothing readable behind."""
        del self.cursors[slot], self.accepted[slot], self.seeds[slot]
        poison_slot(self.cache, slot)

    # -- one launch -------------------------------------------------------------------------------

    def _composition(self) -> tuple[int, int, list[int]]:
        """Return a random bucket, T, and slot of each row, -1 for padding."""
        case, rng = self.case, self.rng
        admitted = sorted(self.cursors)
        live = rng.sample(admitted, rng.randint(1, min(len(admitted), case.buckets[-1])))
        bucket = rng.choice([size for size in case.buckets if size >= len(live)])
        rows = live + [-1] * (bucket - len(live))
        rng.shuffle(rows)
        return bucket, rng.choice(case.launch_tokens), rows

    def step(self, bucket: int, tokens: int, slots: list[int]) -> None:
        """Launch ``slots``, check everything, accept random counts."""
        chain, report = self.chains[bucket, tokens], self.report
        chain.slot_ids.copy_(torch.tensor(slots, dtype=torch.int32))
        live = [slot for slot in slots if slot >= 0]
        scratch = self.cache.scratch(self.case.buckets[-1], self.case.tokens)
        for name in FLOAT_SCRATCH:
            getattr(scratch, name).fill_(math.nan)
        scratch.row_cursors.fill_(WILD)

        self._advance(chain, live)
        self._check_row_cursors(slots)
        at = {slot: self.cursors[slot] for slot in live}
        poison_outside_history(self.cache, at)
        for layer in range(self.case.layers):
            self._layer(chain, layer, slots)
        self._accept(chain, slots)

        report.launches += 1
        report.padding_rows += bucket - len(live)
        report.seen.add((bucket, tokens))

    def _advance(self, chain: BoundChain, live: list[int]) -> None:
        expected_clamps = torch.full((self.case.slots + 1,), NO_CLAMP, dtype=torch.int32)
        expected_clamps[-1] = 0
        for slot in live:
            before, count = self.cursors[slot], self.accepted[slot]
            if ring.clamp_accepted(count, before.last_tokens) != count:
                expected_clamps[slot], expected_clamps[-1] = count, 1
                self.report.clamped += 1
            after = ring.advance(
                before,
                count,
                chain.tokens,
                self.case.window,
                self.config.ring_rows,
                self.config.conv_ring_rows,
            )
            self.cursors[slot], self.accepted[slot] = after, 0
            self.seeds[slot] += 1
            self.report.flushes += after.flushed
            self.report.wraps += after.ring_start < before.ring_start
            self.report.conv_wraps += after.conv_pos < before.conv_pos
        self.run_advance(chain)
        self._check_cursors(live, "after advance")
        check_same_bits(self.cache.cursors.clamped, expected_clamps, "clamped")
        self.cache.cursors.clamped.fill_(NO_CLAMP)[-1] = 0

    def _check_cursors(self, live: list[int], when: str) -> None:
        """Require every cursor of every slot, admitted or not, to be what `graphrt.ring` says."""
        cursors = self.cache.cursors
        got = torch.stack([getattr(cursors, name).long() for name in CURSORS]).cpu()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # for `clamped`, which the host reads by itself
        expected = torch.full_like(got, WILD)
        for slot, at in self.cursors.items():
            places = (at.held, at.ring_start, at.conv_pos, at.flushed, at.last_tokens)
            expected[:, slot] = torch.tensor([*places, self.seeds[slot], self.accepted[slot]])
        for name, row, expected_row in zip(CURSORS, got, expected, strict=True):
            check_same_bits(row, expected_row, f"{name} {when}, live {live}")

    def _check_row_cursors(self, slots: list[int]) -> None:
        """Require by row what `graphrt.ring` says by slot, and nothing written beyond the rows."""
        lines: list[list[int]] = []
        got = self.cache.scratch(self.case.buckets[-1], self.case.tokens).row_cursors.cpu()
        expected = torch.full_like(got, WILD)
        for row, slot in enumerate(slots):
            line = [-1, 0, 0, 0, 0, 0]
            if slot >= 0:
                at = self.cursors[slot]
                line = [slot, at.held, at.ring_start, at.flushed, at.conv_pos, self.seeds[slot]]
            lines.append([*line, row, 0])
        expected[: len(lines)] = torch.tensor(in_order(lines))
        check_same_bits(got, expected, f"row_cursors after advance, slots {slots}")

    # -- one layer --------------------------------------------------------------------------------

    def _layer(self, chain: BoundChain, layer: int, slots: list[int]) -> None:
        case, tokens = self.case, chain.tokens
        live = [row for row, slot in enumerate(slots) if slot >= 0]
        on_cpu = case.inputs([slot >= 0 for slot in slots], tokens, self.generator)
        inputs = place_inputs(on_cpu, self.device)
        out = case.empty_out(chain.rows, tokens, self.device)
        caches = contents(self.cache)

        self.run_layer(chain, layer, inputs, out)

        scratch = self.cache.scratch(chain.rows, tokens)
        written = {name.removesuffix("_ptr") for stage in chain.stages for name in stage.writes}
        here = "conv_out" in written or not runs_kernels(self.device)
        conv_out = to_cpu(scratch.conv_out if here else self._convolved(layer, inputs, scratch))
        reference = self.oracles[layer].launch(
            [slots[row] for row in live],
            rows_of(on_cpu, live),
            conv_out[live] if self.show_conv_out else None,
        )
        self._check_outputs(layer, live, reference, out)
        padding = [row for row, slot in enumerate(slots) if slot < 0]
        for name in FLOAT_SCRATCH:
            found = getattr(scratch, name)
            if name in written or not runs_kernels(self.device):
                check_zeros(found[padding], f"{name} of padding rows")
            elif not bool(found.isnan().all()):  # the poison that this launch found there
                raise Mismatch(f"{name}: written, where one kernel hands nothing on")
        check_unwritten(inputs, flat_copies(on_cpu), "inputs")
        self._check_caches(layer, slots, on_cpu.xbc, conv_out, caches)
        self._check_row_cursors(slots)

    def _convolved(self, layer: int, inputs: LayerInputs, scratch: Scratch) -> Tensor:
        """Return what conv1d makes of a launch that convolved without it, all else left alone."""
        own = self.cache.layer(layer)
        apart = replace(scratch, conv_out=torch.full_like(scratch.conv_out, math.nan))
        conv1d(
            inputs,
            self.weights[layer],
            replace(own, conv_ring=own.conv_ring.clone()),
            apart,
            links=NO_LINKS,
            launch=Conv1dLaunch(64, 1),
        )
        return apart.conv_out

    def _check_outputs(self, layer: int, live: list[int], reference: Tensor, out: Tensor) -> None:
        got = to_cpu(out)
        where = f"y of layer {layer}, launch {self.report.launches}"
        worst = check_rows(got[live], reference, self.limit, where)
        self.report.worst = max(self.report.worst, worst)
        padding = [row for row in range(out.shape[0]) if row not in live]
        check_zeros(got[padding], "y of padding rows")
        untouched = storage_of(out).clone()
        untouched.as_strided(out.shape, out.stride(), out.storage_offset()).fill_(math.nan)
        check_same_bits(untouched, poisoned(untouched.shape, out.dtype), "memory beside y")

    def _check_caches(
        self,
        layer: int,
        slots: list[int],
        xbc: Tensor,
        conv_out: Tensor,
        expected: dict[str, Tensor],
    ) -> None:
        """Update ``expected``, the caches before the launch, by the contract; compare all bits."""
        config, tokens = self.config, xbc.shape[1]
        got = contents(self.cache)
        oracle = self.oracles[layer]
        assert oracle.last is not None
        live = [(row, slot) for row, slot in enumerate(slots) if slot >= 0]
        for (row, slot), dt in zip(live, oracle.last.dt, strict=True):
            at = self.cursors[slot]
            x, b = split_conv_out(conv_out[row], config.shape)
            new = appended_rows(at, tokens, config)
            expected["conv_ring"][layer, slot, appended_conv_rows(at, tokens, config)] = xbc[row]
            expected["x_ring"][layer, slot][:, new] = x
            expected["b_ring"][layer, slot][:, new] = b
            new_dt = got["dt_ring"][layer, slot][:, new]  # [H, T]
            check_dt(new_dt, dt.T, f"dt of slot {slot}")
            expected["dt_ring"][layer, slot][:, new] = new_dt
            if at.flushed:
                stored = got["state"][layer, slot]
                self._check_stored(layer, slot, stored, f"state of slot {slot} after a flush")
                expected["state"][layer, slot] = stored
        for name in CACHES:
            check_same_bits(got[name], expected[name], f"{name} after layer {layer}")

    def _check_stored(self, layer: int, slot: int, stored: Tensor, what: str) -> None:
        oracle = self.oracles[layer]
        stochastic = self.case.rounding == "stochastic"
        check_stored(stored, oracle.state[slot], self.state_limit, stochastic, what)
        if stored.dtype != torch.float32:
            oracle.adopt(slot, stored)

    # -- accepting --------------------------------------------------------------------------------

    def _accept(self, chain: BoundChain, slots: list[int]) -> None:
        """Accept random counts, by the host or by the chain; some out of range, some forgotten."""
        rng, tokens = self.rng, chain.tokens
        how = rng.choices(["chain", "host", "wild", "forgotten"], [8, 8, 2, 1])[0]
        counts = [rng.choice([0, tokens, *range(1, tokens + 1)]) for _ in slots]
        if how == "wild":
            counts = [rng.choice([-1, WILD, tokens + 1, -WILD, tokens]) for _ in slots]
        if how == "forgotten":
            counts = [0 for _ in slots]
            self.report.forgotten += 1
        elif how == "chain":
            padded = [c if slot >= 0 else WILD for c, slot in zip(counts, slots, strict=True)]
            while padded[-1] == WILD and rng.random() < 0.5:  # padding at the end may be left out
                padded.pop()
            chain.accept(torch.tensor(padded, dtype=torch.int32, device=self.device))
        live = {slot: count for slot, count in zip(slots, counts, strict=True) if slot >= 0}
        for slot, count in live.items():
            self.accepted[slot] = count
            if how in ("host", "wild"):
                self.cache.cursors.accepted[slot] = count
        self._check_cursors(list(live), "after the layers and accept")
        kept = {slot: ring.clamp_accepted(count, tokens) for slot, count in live.items()}
        for oracle in self.oracles:
            assert oracle.last is not None
            oracle.commit([kept[slot] for slot in oracle.last.slots])
