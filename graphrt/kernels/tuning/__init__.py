# SPDX-License-Identifier: Apache-2.0
"""Launch configurations: data with a default, looked up by a pure function.

The choice changes how fast a stage is, never what it computes: every configuration splits the
work along rows, heads, channels or P, and no sum is taken in another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphrt.config import ChainShape

Match = Literal["exact", "nearest", "default"]


@dataclass(frozen=True, slots=True)
class Conv1dLaunch:
    """conv1d: channels a program handles, warps a program has."""

    block_channels: int
    num_warps: int


@dataclass(frozen=True, slots=True)
class PrecomputeLaunch:
    """precompute: heads of one group that a program handles (a power of 2), warps."""

    block_heads: int
    num_warps: int


@dataclass(frozen=True, slots=True)
class StateUpdateLaunch:
    """state update: rows of P a program handles (16 or more), warps, registers a thread may use."""

    block_head_dim: int
    num_warps: int
    max_registers: int | None = None


@dataclass(frozen=True, slots=True)
class ChainLaunch:
    """The launch configuration of all three stages, and how the table matched."""

    conv1d: Conv1dLaunch
    precompute: PrecomputeLaunch
    state_update: StateUpdateLaunch
    match: Match


# For an H200 at H 16, P 64, N 128, T 6; not yet searched per shape and dtype. Few row-heads: small
# tiles, so that more multiprocessors take part. Many: a whole head a program, so that C and the
# causal matrix are loaded once a head. (most row-heads, configuration)
_DEFAULTS: tuple[tuple[float, ChainLaunch], ...] = (
    (
        64,
        ChainLaunch(
            Conv1dLaunch(128, 4), PrecomputeLaunch(4, 4), StateUpdateLaunch(16, 4), "default"
        ),
    ),
    (
        512,
        ChainLaunch(
            Conv1dLaunch(128, 4), PrecomputeLaunch(4, 4), StateUpdateLaunch(16, 2), "default"
        ),
    ),
    (
        float("inf"),
        ChainLaunch(
            Conv1dLaunch(64, 1), PrecomputeLaunch(16, 4), StateUpdateLaunch(64, 4), "default"
        ),
    ),
)


def lookup(shape: ChainShape, rows: int) -> ChainLaunch:
    """Return the launch configuration for ``rows`` rows of ``shape``."""
    row_heads = rows * shape.heads
    return next(launch for most, launch in _DEFAULTS if row_heads <= most)
