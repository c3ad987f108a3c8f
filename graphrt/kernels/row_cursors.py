# SPDX-License-Identifier: Apache-2.0
"""The cursors of a launch by row: one line of memory for each row, written by advance.

The cursors by slot are the truth between launches. What the stages need of them lies here, found by
the row alone: all their loads are independent, where ``slot_ids`` first and then a cursor at that
slot are two trips to memory, one after the other.
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
# The others are 0, so that a line is written whole: memory need not be read to complete it.
UNUSED = tl.constexpr(6)

_BY_COLUMN = {
    HELD.value: "held",
    RING_START.value: "ring_start",
    FLUSHED.value: "flushed",
    CONV_POS.value: "conv_pos",
    RAND_SEED.value: "rand_seed",
}


@triton.jit
def row_cursor(row_cursors_ptr, row, COLUMN: tl.constexpr):
    """Return one column of ``row``, int64. In rows of padding the slot is -1, all else 0."""
    return tl.load(row_cursors_ptr + row * COLUMNS + COLUMN)


def fill_row_cursors(row_cursors: Tensor, slot_ids: Tensor, cursors: Cursors) -> None:
    """Write ``row_cursors`` from cursors that stand where advance leaves them.

    row_cursors: (rows, 8) int64. slot_ids: (rows,), -1 is padding. What advance does at its end,
    for its twin and for who runs stages without it.
    """
    live, at = slot_ids >= 0, slot_ids.clamp(min=0).long()
    row_cursors[:, SLOT.value] = slot_ids
    for column, name in _BY_COLUMN.items():
        value = getattr(cursors, name)[at]
        row_cursors[:, column] = torch.where(live, value, torch.zeros_like(value))
    row_cursors[:, UNUSED.value :] = 0
