# SPDX-License-Identifier: Apache-2.0
"""Where a request's tokens lie in the caches, and poison everywhere else."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphrt.cache import ReplayCache
from graphrt.config import ChainShape, RuntimeConfig
from graphrt.kernels.tensors import SCRATCH
from graphrt.ring import SlotCursors, ring_row
from tests.helpers.tensors import to_cpu

CACHES = ("state", "x_ring", "b_ring", "dt_ring", "conv_ring")
CURSORS = ("held", "ring_start", "conv_pos", "flushed", "last_tokens", "rand_seed", "accepted")
FLOAT_SCRATCH = tuple(name for name in SCRATCH if name != "row_cursors")
WILD = -77_777_777  # in cursors of slots without a request


def contents(cache: ReplayCache) -> dict[str, Tensor]:
    """Return copies of the caches on the CPU, by name."""
    return {name: to_cpu(getattr(cache, name)) for name in CACHES}


def history_rows(at: SlotCursors, config: RuntimeConfig) -> list[int]:
    """Return the ring rows of the held tokens, oldest first."""
    return [ring_row(at.ring_start, index, config.ring_rows) for index in range(at.held)]


def appended_rows(at: SlotCursors, tokens: int, config: RuntimeConfig) -> list[int]:
    """Return the ring rows that a launch of ``tokens`` appends."""
    places = range(at.held, at.held + tokens)
    return [ring_row(at.ring_start, index, config.ring_rows) for index in places]


def conv_history_rows(at: SlotCursors, config: RuntimeConfig) -> list[int]:
    """Return the conv_ring rows of the convolution's history, oldest first."""
    places = range(1 - config.shape.conv_width, 0)
    return [ring_row(at.conv_pos, index, config.conv_ring_rows) for index in places]


def appended_conv_rows(at: SlotCursors, tokens: int, config: RuntimeConfig) -> list[int]:
    """Return the conv_ring rows that a launch of ``tokens`` appends."""
    return [ring_row(at.conv_pos, index, config.conv_ring_rows) for index in range(tokens)]


def split_conv_out(conv_out: Tensor, shape: ChainShape) -> tuple[Tensor, Tensor]:
    """Return x (H, T, P) and B (G, T, N) of one row's ``conv_out`` (T, conv_dim), as rings lie."""
    b_dim = shape.groups * shape.state_dim
    x, b, _ = conv_out.split([shape.inner_dim, b_dim, b_dim], dim=-1)
    return (
        x.unflatten(-1, (shape.heads, shape.head_dim)).transpose(0, 1),
        b.unflatten(-1, (shape.groups, shape.state_dim)).transpose(0, 1),
    )


def poison_slot(cache: ReplayCache, slot: int) -> None:
    """Leave nothing of ``slot`` that may be read without an admission."""
    for name in CACHES:
        getattr(cache, name)[:, slot] = math.nan
    for name in CURSORS:
        getattr(cache.cursors, name)[slot] = WILD


def poison_outside_history(cache: ReplayCache, live: dict[int, SlotCursors]) -> None:
    """Put NaN in every ring row of the ``live`` slots that the coming launch may not read."""
    config = cache.config
    dead = torch.zeros(config.slots, config.ring_rows, dtype=torch.bool)
    conv_dead = torch.zeros(config.slots, config.conv_ring_rows, dtype=torch.bool)
    for slot, at in live.items():
        dead[slot], conv_dead[slot] = True, True
        dead[slot, history_rows(at, config)] = False
        conv_dead[slot, conv_history_rows(at, config)] = False
    dead, conv_dead = dead.to(config.device), conv_dead.to(config.device)
    for ring in (cache.x_ring, cache.b_ring):
        ring.masked_fill_(dead[None, :, None, :, None], math.nan)
    cache.dt_ring.masked_fill_(dead[None, :, None, :], math.nan)
    cache.conv_ring.masked_fill_(conv_dead[None, :, :, None], math.nan)
