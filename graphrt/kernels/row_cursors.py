# SPDX-License-Identifier: Apache-2.0
"""The cursors of a launch by row: one line of memory for each row, written by advance.

The cursors by slot are the truth between launches. What the stages need of them lies here: all
their loads are independent, where ``slot_ids`` first and then a cursor at that slot are two trips
to memory, one after the other.

Lines lie in the order in which programs take them. In a launch of at most `ORDERED` rows those that
flush come first: their programs run longest, and what starts last decides when a launch ends. In
larger ones the end matters less than that reads and writes are mixed all along.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphrt.kernels.tensors import Cursors
from graphrt.memory import ROW_CURSOR_COLUMNS

COLUMNS = tl.constexpr(ROW_CURSOR_COLUMNS)
SLOT = tl.constexpr(0)
HELD = tl.constexpr(1)
RING_START = tl.constexpr(2)
FLUSHED = tl.constexpr(3)
CONV_POS = tl.constexpr(4)
RAND_SEED = tl.constexpr(5)
ROW = tl.constexpr(6)
# The rest is 0, so that a line is written whole: memory need not be read to complete it.
UNUSED = tl.constexpr(7)
ORDERED = 64
"""Rows of a launch up to which those that flush come first, by the H200's times."""

_BY_COLUMN = {
    HELD.value: "held",
    RING_START.value: "ring_start",
    FLUSHED.value: "flushed",
    CONV_POS.value: "conv_pos",
    RAND_SEED.value: "rand_seed",
}


@triton.jit
def row_cursor(row_cursors_ptr, line, COLUMN: tl.constexpr):
    """Return one column of a line, int64. Where its row is padding the slot is -1, cursors 0."""
    return tl.load(row_cursors_ptr + line * COLUMNS + COLUMN)


@triton.jit
def ring_row(index, ROWS: tl.constexpr):
    """Return ``index`` of 0 … 2 ROWS - 1, int32, modulo ROWS: the lesser, where negative is large.

    What is larger, behind all that a ring holds, stays wrong: for the caller to mask.
    """
    return tl.minimum(index.to(tl.uint32), (index - ROWS).to(tl.uint32)).to(tl.int32)


def fill_row_cursors(row_cursors: Tensor, slot_ids: Tensor, cursors: Cursors) -> None:
    """Write ``row_cursors`` from cursors that stand where advance leaves them.

    row_cursors: (rows, 8) int64. slot_ids: (rows,), -1 is padding. What advance does at its end,
    for its twin and for who runs stages without it.
    """
    live, at = slot_ids >= 0, slot_ids.clamp(min=0).long()
    first = live & cursors.flushed[at].bool() & (len(slot_ids) <= ORDERED)
    order = torch.argsort(~first, stable=True)
    clear_row_cursors(row_cursors)
    row_cursors[:, SLOT.value] = slot_ids[order]
    row_cursors[:, ROW.value] = order
    for column, name in _BY_COLUMN.items():
        value = getattr(cursors, name)[at]
        row_cursors[:, column] = torch.where(live, value, torch.zeros_like(value))[order]


def clear_row_cursors(row_cursors: Tensor) -> None:
    """Make all rows of (..., rows, 8) padding, each on its own line."""
    row_cursors.zero_()
    row_cursors[..., SLOT.value] = -1
    row_cursors[..., ROW.value] = torch.arange(row_cursors.shape[-2], device=row_cursors.device)
