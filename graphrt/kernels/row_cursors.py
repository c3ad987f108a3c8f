# SPDX-License-Identifier: Apache-2.0
"""The cursors of a launch by row: one line of memory for each row, written by advance.

The cursors by slot are the truth between launches. What the stages need of them lies here: all
their loads are independent, where ``slot_ids`` first and then a cursor at that slot are two trips
to memory, one after the other.

Lines lie in the order in which programs take them. Of every `MIXED` rows, counted from a launch's
end, those that flush are spread evenly among the others: reads and writes are best mixed all along.
They run longest, and what starts last decides when a launch ends: up to `LAST` rows that do not
flush are left for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphrt.kernels.ptx import ask_for_line_in_l2
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
MIXED = 64
LAST = tl.constexpr(24)  # both by the H200's times
AHEAD = tl.constexpr(32)  # as good as 64, better than 128, by the same

_BY_COLUMN = {
    HELD.value: "held",
    RING_START.value: "ring_start",
    FLUSHED.value: "flushed",
    CONV_POS.value: "conv_pos",
    RAND_SEED.value: "rand_seed",
}


@triton.jit
def row_cursor(row_cursors_ptr, line, COLUMN: tl.constexpr):
    """Return one column of a line, int32. Where its row is padding the slot is -1, cursors 0.

    The low half of what is stored: times an int32 stride that is one instruction, where a 64-bit
    number takes four, and all that a program loads waits for these.
    """
    tl.static_assert(COLUMN != RAND_SEED)
    halves = row_cursors_ptr.to(tl.pointer_type(tl.int32), bitcast=True)
    return tl.load(halves + line * (2 * COLUMNS) + 2 * COLUMN)


@triton.jit
def row_seed(row_cursors_ptr, line):
    """Return the seed of a line's row, int64."""
    return tl.load(row_cursors_ptr + line * COLUMNS + RAND_SEED)


@triton.jit
def ask_for_later_line(row_cursors_ptr, line, lines):
    """Have the line of `AHEAD` rows later brought into L2, where a launch has so many ``lines``.

    A row's programs start together and all wait for its line; behind what is on its way already
    memory takes long. With a 16-bit state a launch takes 1 to 3 % less from 64 rows on.
    """
    if line + AHEAD < lines:
        ask_for_line_in_l2(row_cursors_ptr + (line + AHEAD) * COLUMNS)


@triton.jit
def mixed_place(flushes, index, rows, is_end):
    """Return the line of each of ``rows`` rows that are mixed, numbered by ``index``.

    The k-th of F that flush comes at (2k + 1) / F of the way, the k-th of M that are mixed with
    them at (2k + 1) / M, behind those that flush at the same place.
    """
    flushing = tl.sum(flushes.to(tl.int32), 0)
    flush = tl.cumsum(flushes.to(tl.int32), 0) - flushes
    stay = index - flush
    mixed = tl.maximum(rows - flushing - tl.where(is_end, LAST, 0), 0)
    staying_before = ((2 * flush + 1) * mixed + flushing - 1) // (2 * tl.maximum(flushing, 1))
    flushing_before = ((2 * stay + 1) * flushing + mixed) // (2 * tl.maximum(mixed, 1))
    flushing_before = tl.where(stay < mixed, flushing_before, flushing)
    return tl.where(flushes, flush + staying_before, stay + flushing_before)


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
    order = mixed_order((live & cursors.flushed[at].bool()).tolist()).to(at.device)
    clear_row_cursors(row_cursors)
    row_cursors[:, SLOT.value] = slot_ids[order]
    row_cursors[:, ROW.value] = order
    for column, name in _BY_COLUMN.items():
        value = getattr(cursors, name)[at]
        row_cursors[:, column] = torch.where(live, value, torch.zeros_like(value))[order]


def mixed_order(flushes: Sequence[bool]) -> Tensor:
    """Return the row of each line, int64, of a launch whose rows flush or do not."""
    order: list[int] = []
    end = len(flushes)
    while end > 0:
        rows = range(max(end - MIXED, 0), end)
        flushing = [row for row in rows if flushes[row]]
        staying = [row for row in rows if not flushes[row]]
        mixed = max(len(staying) - LAST.value, 0) if end == len(flushes) else len(staying)
        spread = [(Fraction(2 * k + 1, len(flushing)), 0, row) for k, row in enumerate(flushing)]
        spread += [(Fraction(2 * k + 1, mixed), 1, row) for k, row in enumerate(staying[:mixed])]
        order = [row for *_, row in sorted(spread)] + staying[mixed:] + order
        end = rows.start
    return torch.tensor(order, dtype=torch.int64)


def clear_row_cursors(row_cursors: Tensor) -> None:
    """Make all rows of (..., rows, 8) padding, each on its own line."""
    row_cursors.zero_()
    row_cursors[..., SLOT.value] = -1
    row_cursors[..., ROW.value] = torch.arange(row_cursors.shape[-2], device=row_cursors.device)
