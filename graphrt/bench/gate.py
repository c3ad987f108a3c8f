# SPDX-License-Identifier: Apache-2.0
"""Right first: nothing is timed that has not just given the right answer on the same tensors.

The reference is the chain's twins on a copy of the caches of one call's slots. Compared are y, per
row and head; the stored state, per row and head, where it was folded, and bit for bit where it was
not; and what was appended to the rings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from graphrt.bench.workload import Call, Workload
from graphrt.errors import GraphrtError, sentence
from graphrt.kernels import reference
from graphrt.kernels.tensors import SCRATCH, Cursors, LayerCache, Scratch

ACTIVATION_16_BIT = 1e-2
FP32 = 1e-3
_ENOUGH_ROWS = 16
_RINGS = ("x_ring", "b_ring", "dt_ring", "conv_ring")


class GateError(GraphrtError, RuntimeError):
    """A contender gave the wrong answer, so no time of it may be shown."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What one launch must leave behind. y: (batch, T, H, P). cache: its slots, by row."""

    y: Tensor
    cache: LayerCache
    flushed: Tensor


def bound(dtype: torch.dtype) -> float:
    """Return the largest relative error allowed per row and head."""
    return FP32 if dtype == torch.float32 else ACTIVATION_16_BIT


def checked_calls(work: Workload) -> Iterator[int]:
    """Yield the indices of calls that together have enough rows, some that flush among them."""
    rows, flushed = 0, False
    for index, call in enumerate(work.calls):
        own = bool(call.after.cursors.flushed[call.slot_ids.long()].any())
        if rows < _ENOUGH_ROWS or (own and not flushed):
            yield index
            rows += work.case.batch
            flushed |= own


def rows_of(call: Call) -> LayerCache:
    """Return a copy of the caches of a call's slots, row by row."""
    slots, layer = call.slot_ids.long(), call.after.layer(0)
    copies = {
        field.name: getattr(layer, field.name)[slots]
        for field in fields(LayerCache)
        if field.name != "layer"
    }
    return LayerCache(**copies, layer=layer.layer)


def put_back(call: Call, saved: LayerCache) -> None:
    """Write a copy made by `rows_of` back."""
    slots, layer = call.slot_ids.long(), call.after.layer(0)
    for field in fields(LayerCache):
        if field.name != "layer":
            getattr(layer, field.name)[slots] = getattr(saved, field.name)


def expected(work: Workload, call: Call, conv_out: Tensor | None = None) -> Expected:
    """Return what the twins make of one launch; the call's own tensors are left alone.

    conv_out: start from this instead of convolving, for contenders that do not convolve.
    """
    case, config = work.case, work.config
    slots = call.slot_ids.long()
    cache = rows_of(call)
    cursors = call.after.cursors
    own = Cursors(
        **{
            field.name: getattr(cursors, field.name)[slots]
            for field in fields(Cursors)
            if field.name != "clamped"
        },
        clamped=cursors.clamped,
    )
    shared = call.after.scratch(case.batch, case.tokens)
    scratch = Scratch(
        conv_out=torch.empty_like(shared.conv_out) if conv_out is None else conv_out.clone(),
        **{name: torch.empty_like(getattr(shared, name)) for name in SCRATCH if name != "conv_out"},
    )
    rows = torch.arange(case.batch, dtype=torch.int32, device=work.device)
    given = (work.inputs, work.weights, cache, own, rows, scratch)
    y = torch.full_like(work.out, math.nan)
    if conv_out is None:
        reference.conv1d_reference(*given)
    reference.precompute_reference(*given, shape=case.shape, window=case.window)
    reference.state_update_reference(
        *given,
        y,
        shape=case.shape,
        window=case.window,
        stochastic=config.rounding == "stochastic",
    )
    return Expected(y, cache, own.flushed.bool())


def check_chain(
    name: str,
    work: Workload,
    run: Callable[[int], object],
    *,
    limit: float | None = None,
    out: Tensor | None = None,
    conv_out: Callable[[int], Tensor] | None = None,
) -> float:
    """Run and compare a chain on the first calls; return the largest relative error of y.

    run: runs the call of an index. limit: by default the contract's bound. out: where it writes y,
    by default the workload's. conv_out: given for contenders that start from conv1d's output, and
    leave its ring alone. Raises GateError, naming what is wrong. Caches are put back.
    """
    limit = limit or bound(work.case.activation_dtype)
    out = work.out if out is None else out
    worst = 0.0
    for index in checked_calls(work):
        call = work.calls[index]
        saved = rows_of(call)
        right = expected(work, call, conv_out(index) if conv_out else None)
        out.fill_(math.nan)
        run(index)
        got = rows_of(call)
        try:
            worst = max(worst, check_rows(f"{name}: y", out, right.y, limit))
            check_rows_of_state(name, got.state, right, limit)
            _check_rings(name, got, right.cache, limit)
        finally:
            put_back(call, saved)
    return worst


def check_rows(what: str, got: Tensor, right: Tensor, limit: float) -> float:
    """Require ||got - right|| ≤ limit · ||right|| per row and head; both (rows, T, H, P)."""
    got, right = got.float(), right.float()
    error = (got - right).square().sum((1, 3)).sqrt()
    size = right.square().sum((1, 3)).sqrt()
    if not bool((error <= limit * size).all()):
        relative = (error / size.clamp(min=1e-30)).nan_to_num(math.inf)
        raise GateError(
            sentence(
                what,
                f"{float(relative.max()):.3g}",
                f"the relative error of a row and head must be ≤ {limit:g}",
                "nothing wrong is timed: mend it first",
            )
        )
    return float((error / size.clamp(min=1e-30)).max())


def check_rows_of_state(name: str, got: Tensor, right: Expected, limit: float) -> None:
    """Require folded states within ``limit`` and all others untouched."""
    flushed = right.flushed
    if flushed.any():
        check_rows(
            f"{name}: folded state",
            got[flushed].transpose(1, 2),
            right.cache.state[flushed].transpose(1, 2),
            limit,
        )
    if not torch.equal(got[~flushed], right.cache.state[~flushed]):
        raise GateError(
            sentence(name, "wrote it", "a state that is not folded stays as it is", "mend it")
        )


def _check_rings(name: str, got: LayerCache, right: LayerCache, limit: float) -> None:
    for ring in _RINGS:
        a, b = getattr(got, ring).float(), getattr(right, ring).float()
        error, size = float((a - b).norm()), float(b.norm())
        if not error <= limit * size:
            raise GateError(
                sentence(
                    f"{name}: {ring}",
                    f"{error / max(size, 1e-30):.3g}",
                    f"its relative error must be ≤ {limit:g}",
                    "nothing wrong is timed: mend it first",
                )
            )


def check_advance(work: Workload, run: Callable[[int], object]) -> None:
    """Run advance for every call and require exactly the cursors of `ring.advance`."""
    work.restore()
    for index in range(len(work.calls)):
        run(index)
    if work.device.type == "cuda":
        torch.cuda.synchronize(work.device)
    for name, got, right in work.advanced():
        if not torch.equal(got, right):
            raise GateError(
                sentence(f"advance: {name}", "wrong", "must be ring.advance's", "mend it first")
            )
    work.restore()
