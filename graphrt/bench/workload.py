# SPDX-License-Identifier: Apache-2.0
"""The tensors that are timed: caches larger than L2, histories of a steady state, random inputs.

A workload is a number of *calls*, each one launch of the batch over slots of its own, until the
caches they touch exceed L2 several times. Run one after the other, again and again, every call
finds its caches in device memory. Inputs, weights and scratch are shared by all calls and stay in
L2, as after the projection that made them.

No call moves its cursors, so that every repetition is the same launch: each call has two sets of
them, ``before`` its advance and ``after``, and advance is timed on a copy of the first. Each call
has its cursors by row too, those of ``after`` filled once, advance's written by itself. Repeated
folds of one history converge; `Workload.check_finite` says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from graphrt import ring
from graphrt.bench.cases import Case
from graphrt.bench.histories import Before, befores, deal, share_of_flushes
from graphrt.bench.traffic import Traffic
from graphrt.cache import ReplayCache
from graphrt.config import ChainShape
from graphrt.errors import GraphrtError, sentence
from graphrt.kernels.row_cursors import clear_row_cursors, fill_row_cursors
from graphrt.kernels.tensors import Cursors, LayerInputs, LayerWeights
from graphrt.memory import ROW_CURSOR_COLUMNS

_INTEGERS = ("held", "ring_start", "conv_pos", "flushed", "last_tokens", "accepted")
# Rows of stacked cursors are as aligned as tensors of their own, so that kernels specialise alike.
_ALIGNED = 64


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured. l2_times: how often the caches exceed L2. calls: fewest in a graph,
    most_calls: most. rounds: replays of every graph, after warm_up more. copy_bytes: of the copy
    that measures bandwidth.
    """

    l2_times: float = 4.0
    calls: int = 16
    most_calls: int = 2048
    rounds: int = 15
    warm_up: int = 3
    copy_bytes: int = 2 << 30

    @classmethod
    def quick(cls) -> Effort:
        """Return tiny counts: figures that say nothing, in no time."""
        return cls(l2_times=0.01, calls=2, most_calls=3, rounds=2, warm_up=1, copy_bytes=1 << 16)


@dataclass(frozen=True, slots=True)
class Call:
    """One launch of the batch: its slots, and the cache with this call's cursors."""

    slot_ids: Tensor
    after: ReplayCache
    advancing: ReplayCache


class Workload:
    """Everything one case is timed on.

    calls: see the module. inputs, weights, out: of one layer; out (batch, T, H, P). before, after:
    Cursors whose tensors are (calls, slots). flush_share: share of the calls' rows that flush.
    """

    def __init__(self, case: Case, device: torch.device, effort: Effort, seed: int = 0) -> None:
        """Allocate and fill. Raises MemoryPlanError if the caches do not fit."""
        self.case = case
        self.device = device
        generator = torch.Generator(device).manual_seed(seed)
        groups = self._groups(effort)
        self.config = case.config(groups * case.batch, device)
        self.cache = ReplayCache(self.config)
        self.weights = random_weights(case.shape, case.activation_dtype, generator)
        self.inputs, self.out = _inputs(case, device, generator)
        self._fill_caches(generator)
        count = max(groups, effort.calls)
        slots = torch.randperm(self.config.slots, generator=torch.Generator().manual_seed(seed))
        rows = slots.view(groups, case.batch)[torch.arange(count) % groups]  # [calls, batch]
        dealt = deal(
            befores(case.history, case.tokens, case.window),
            case.tokens,
            case.window,
            count * case.batch,
        )
        self.flush_share = share_of_flushes(dealt, case.tokens, case.window)
        self.accepted = torch.tensor([slot.accepted for slot in dealt], dtype=torch.int32)
        self.accepted = self.accepted.view(count, case.batch).to(device)
        self.before, self.after = self._cursors(dealt, rows)
        self._advancing = _like(self.before)
        self._after_rows, self._advancing_rows = (
            torch.empty(count, case.batch, ROW_CURSOR_COLUMNS, dtype=torch.int64, device=device)
            for _ in range(2)
        )
        self.restore()
        self.calls = [
            Call(
                slot_ids=rows[index].to(device, torch.int32),
                after=self._with_cursors(self.after, self._after_rows, index),
                advancing=self._with_cursors(self._advancing, self._advancing_rows, index),
            )
            for index in range(count)
        ]
        for index, call in enumerate(self.calls):
            fill_row_cursors(self._after_rows[index], call.slot_ids, call.after.cursors)

    def restore(self) -> None:
        """Put the cursors that advance works on back to where they were before it.

        By row there are none then: stages without their advance would find nothing but padding.
        """
        for field in fields(Cursors):
            if field.name != "clamped":
                getattr(self._advancing, field.name).copy_(getattr(self.before, field.name))
        clear_row_cursors(self._advancing_rows)

    def advanced(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield each cursor's name, what advance made of it and what it must be."""
        for name in (*_INTEGERS, "rand_seed"):
            yield name, getattr(self._advancing, name), getattr(self.after, name)
        yield "row_cursors", self._advancing_rows, self._after_rows

    def check_finite(self) -> None:
        """Raise GraphrtError unless the states and the last outputs are finite."""
        for name, tensor in (("state", self.cache.state), ("out", self.out)):
            if not bool(tensor.isfinite().all()):
                raise GraphrtError(
                    sentence(
                        name, "not finite", "timed work must stay what it was", "do not use it"
                    )
                )

    def _groups(self, effort: Effort) -> int:
        per_call = Traffic.of(self.case).slot * self.case.batch
        groups = math.ceil(effort.l2_times * l2_bytes(self.device) / per_call)
        return max(1, min(groups, effort.most_calls))

    def _fill_caches(self, generator: torch.Generator) -> None:
        cache = self.cache
        for tensor in (cache.state, cache.x_ring, cache.b_ring, cache.conv_ring):
            tensor.normal_(generator=generator)
        cache.b_ring += 1.0
        cache.dt_ring.uniform_(0.05, 0.9, generator=generator)

    def _cursors(self, dealt: list[Before], rows: Tensor) -> tuple[Cursors, Cursors]:
        """Return the cursors before and after advance, by `ring.advance`."""
        case, config = self.case, self.config
        places = torch.Generator().manual_seed(1)
        start = torch.randint(config.ring_rows, (len(dealt),), generator=places).tolist()
        conv = torch.randint(config.conv_ring_rows, (len(dealt),), generator=places).tolist()
        before = [
            ring.SlotCursors(
                held=slot.held,
                ring_start=start[i],
                conv_pos=conv[i],
                flushed=ring.must_flush(slot.held, case.tokens, case.window),
                last_tokens=case.tokens,
            )
            for i, slot in enumerate(dealt)
        ]
        after = [
            ring.advance(
                cursors,
                slot.accepted,
                case.tokens,
                case.window,
                config.ring_rows,
                config.conv_ring_rows,
            )
            for cursors, slot in zip(before, dealt, strict=True)
        ]
        return (
            self._stacked(before, [slot.accepted for slot in dealt], rows, seed=41),
            self._stacked(after, [0] * len(dealt), rows, seed=42),
        )

    def _stacked(
        self, slots: list[ring.SlotCursors], accepted: list[int], rows: Tensor, seed: int
    ) -> Cursors:
        """Return cursors (calls, slots): each call's at its own slots, zero elsewhere."""
        width = -(-self.config.slots // _ALIGNED) * _ALIGNED

        def place(values: list[int], dtype: torch.dtype) -> Tensor:
            stacked = torch.zeros(len(rows), width, dtype=dtype)
            stacked.scatter_(1, rows, torch.tensor(values, dtype=dtype).view(rows.shape))
            return stacked.to(self.device)

        def column(name: str) -> list[int]:
            if name == "accepted":
                return accepted
            return [int(getattr(slot, name)) for slot in slots]

        stacked = {name: place(column(name), torch.int32) for name in _INTEGERS}
        return Cursors(
            **stacked,
            rand_seed=place([seed] * len(slots), torch.int64),
            clamped=self.cache.cursors.clamped,
        )

    def _with_cursors(self, cursors: Cursors, row_cursors: Tensor, index: int) -> ReplayCache:
        """Return the cache with cursors of its own: those of one call, by slot and by row."""
        slots = self.config.slots
        own = Cursors(
            **{
                field.name: getattr(cursors, field.name)[index, :slots]
                for field in fields(Cursors)
                if field.name != "clamped"
            },
            clamped=cursors.clamped,
        )
        return self.cache.with_cursors(own, row_cursors[index])


def random_weights(
    shape: ChainShape, dtype: torch.dtype, generator: torch.Generator
) -> LayerWeights:
    """Return weights under which a token's part in the state halves within a few tokens.

    On the generator's device, the convolution's in ``dtype``. The biases keep C·B and D away from
    0: an output that cancels to nothing has no relative error worth bounding.
    """
    device = generator.device

    def uniform(low: float, high: float) -> Tensor:
        drawn = torch.rand(shape.heads, device=device, generator=generator)
        return low + (high - low) * drawn

    def normal(*dims: int) -> Tensor:
        return torch.randn(dims, device=device, generator=generator)

    conv_bias = 0.3 * normal(shape.conv_dim)
    conv_bias[shape.inner_dim :] += 1.5
    return LayerWeights(
        conv_weight=(0.5 * normal(shape.conv_dim, shape.conv_width)).to(dtype),
        A=-uniform(0.05, 1.0),
        conv_bias=conv_bias.to(dtype),
        dt_bias=uniform(-1.0, 0.5),
        D=uniform(0.5, 1.5),
    )


def l2_bytes(device: torch.device) -> int:
    """Return the size of the device's L2; a CPU's is taken to be small."""
    if device.type != "cuda":
        return 1 << 20
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def _inputs(
    case: Case, device: torch.device, generator: torch.Generator
) -> tuple[LayerInputs, Tensor]:
    """Return inputs as slices of one projection's output (z, xBC, dt), and an output."""
    shape = case.shape
    ends = (shape.inner_dim, shape.inner_dim + shape.conv_dim)
    projected = torch.randn(
        case.batch,
        case.tokens,
        ends[1] + shape.heads,
        device=device,
        generator=generator,
        dtype=torch.float32,
    ).to(case.activation_dtype)
    out = torch.zeros(
        case.batch,
        case.tokens,
        shape.heads,
        shape.head_dim,
        device=device,
        dtype=case.activation_dtype,
    )
    return LayerInputs(xbc=projected[..., ends[0] : ends[1]], dt=projected[..., ends[1] :]), out


def _like(cursors: Cursors) -> Cursors:
    return Cursors(
        **{
            field.name: torch.empty_like(getattr(cursors, field.name))
            for field in fields(Cursors)
            if field.name != "clamped"
        },
        clamped=cursors.clamped,
    )
