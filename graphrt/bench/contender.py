# SPDX-License-Identifier: Apache-2.0
"""What is timed beside the chain: a contender, its gate, and the search over its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from graphrt.bench.gate import GateError, bound, check_rows
from graphrt.bench.stages import stage_calls
from graphrt.bench.timing import Timed, Work, marginal_times
from graphrt.bench.workload import Effort, Workload
from graphrt.errors import GraphrtError

# Every token's state is kept in fp32 to compare with: of large batches, this many rows.
_CHECKED_ROWS = 64


class Unavailable(GraphrtError):
    """A contender that is not installed or does not do this case; the message says why."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Something to be timed.

    check: runs it and compares with our reference, returns the largest relative error, raises
    GateError. floor: whose bytes of `traffic.floor_bytes` it needs. beside: the part of the chain
    that does the same work, None for a yardstick of something else. settings: how it is launched.
    """

    name: str
    timed: Timed
    check: Callable[[], float]
    floor: str | None
    beside: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SsmInputs:
    """Views of conv1d's output and the inputs as selective state updates take them.

    x: (batch, T, H, P). b, c: (batch, T, G, N). dt: (batch, T, H), raw.
    """

    x: Tensor
    b: Tensor
    c: Tensor
    dt: Tensor

    @classmethod
    def of(cls, work: Workload) -> SsmInputs:
        """Return views of the scratch that every call of ``work`` shares."""
        case = work.case
        shape = case.shape
        conv_out = work.cache.scratch(case.batch, case.tokens).conv_out
        width = shape.groups * shape.state_dim
        x, b, c = conv_out.split([shape.inner_dim, width, width], dim=-1)
        groups = (shape.groups, shape.state_dim)
        return cls(
            x=x.unflatten(-1, (shape.heads, shape.head_dim)),
            b=b.unflatten(-1, groups),
            c=c.unflatten(-1, groups),
            dt=work.inputs.dt,
        )


def convolve(work: Workload, index: int) -> Tensor:
    """Run conv1d for one call and return the scratch it wrote: what others start from."""
    stage_calls(work, ("conv1d",), calls=[work.calls[index]])[0]()
    return work.cache.scratch(work.case.batch, work.case.tokens).conv_out


def recurrence(work: Workload, state: Tensor, inputs: SsmInputs) -> tuple[Tensor, Tensor]:
    """Return y (batch, T, H, P) and the state after every token (batch, T, H, P, N), fp32.

    The textbook recurrence, token by token, from ``state`` (batch, H, P, N), which may be fewer
    rows than the inputs are.
    """
    shape, weights, rows = work.case.shape, work.weights, len(state)
    raw = inputs.dt[:rows].float()
    if weights.dt_bias is not None:
        raw = raw + weights.dt_bias.float()
    dt = softplus(raw).clamp(shape.dt_min, shape.dt_max)
    current = state.float()
    ys, states = [], []
    for token in range(work.case.tokens):
        step = dt[:, token, :, None, None]
        x = inputs.x[:rows, token].float()
        b, c = (
            part[:rows, token]
            .float()
            .repeat_interleave(shape.heads_per_group, dim=1)[:, :, None, :]
            for part in (inputs.b, inputs.c)
        )
        current = torch.exp(step * weights.A[:, None, None]) * current + step * x[..., None] * b
        y = (current * c).sum(-1)
        if weights.D is not None:
            y = y + weights.D.float()[:, None] * x
        ys.append(y)
        states.append(current)
    return torch.stack(ys, 1), torch.stack(states, 1)


def check_recurrence(
    name: str,
    work: Workload,
    run: Callable[[int], object],
    states: Callable[[int], Tensor],
    out: Tensor,
    limit: float | None = None,
) -> float:
    """Require that ``run(0)`` writes the recurrence's y and, by ``states(0)``, what it stores.

    states: what is stored after a run, (batch, T or 1, H, P, N), the last tokens'. The state is
    read where the chain reads it. Returns the largest relative error of y.
    """
    limit = limit or bound(work.case.activation_dtype)
    convolve(work, 0)
    slots = work.calls[0].slot_ids.long()
    before = work.cache.state[0, slots].clone()
    y, after = recurrence(work, before[:_CHECKED_ROWS], SsmInputs.of(work))
    out.fill_(float("nan"))
    run(0)
    worst = check_rows(f"{name}: y", out[:_CHECKED_ROWS], y, limit)
    if not bool(out.isfinite().all()):
        raise GateError(f"{name}: y is not finite, or not written, in every row")
    stored = states(0)[:_CHECKED_ROWS]
    for token in range(-stored.shape[1], 0):
        got, right = stored[:, token].transpose(1, 2), after[:, token].transpose(1, 2)
        check_rows(f"{name}: state after token {token}", got, right, limit)
    work.cache.state[0, slots] = before
    return worst


def best_of(
    variants: Mapping[str, Callable[[], list[Work]]], work: Workload, effort: Effort
) -> tuple[str, list[Work], dict[str, float]]:
    """Return the name and calls of the fastest variant, and microseconds of all that ran.

    A variant that raises when it is built, called or captured is left out; GateError says that none
    was left. One at a time is captured, so that graphs do not pile up.
    """
    quick = replace(effort, rounds=min(effort.rounds, 5), warm_up=1)
    found: dict[str, float] = {}
    reasons: list[str] = []
    for name, build in variants.items():
        try:
            calls = build()
            calls[0]()
            us = marginal_times({name: Timed(calls)}, work.device, quick)[name].us
        except Exception as error:  # a setting that a kernel does not take
            reasons.append(f"{name}: {type(error).__name__}: {error}")
            continue
        found[name] = us
    if not found:
        raise GateError("; ".join(reasons) or "no variant")
    best = min(found, key=lambda name: found[name])
    return best, variants[best](), found
