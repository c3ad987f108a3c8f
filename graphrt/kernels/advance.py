# SPDX-License-Identifier: Apache-2.0
"""advance: once a launch, commit the accepted counts and decide what this launch does.

Also ``accept``, the scatter by which a step writes the counts it has verified on the device.
The rule is `graphrt.ring.advance`, for every row at once. What the stages of this launch need of
the cursors is left to them by row (`graphrt.kernels.row_cursors`).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from graphrt.config import PdlLinks
from graphrt.kernels.compiled import Compiled
from graphrt.kernels.pdl import signal_consumer
from graphrt.kernels.row_cursors import (
    COLUMNS,
    CONV_POS,
    FLUSHED,
    HELD,
    MIXED,
    RAND_SEED,
    RING_START,
    ROW,
    SLOT,
    UNUSED,
    mixed_place,
)
from graphrt.kernels.settled import settled
from graphrt.kernels.tensors import Cursors

_ROWS_OF_A_WARP = 32
_ACCEPTED_ROWS = 128


@triton.jit
def _load_cursor(ptrs, live):
    return tl.load(ptrs, mask=live, other=0, cache_modifier=".cg")


@settled
@triton.jit(do_not_specialize=["rows", "slots"])
def _advance_kernel(
    # pointers
    slot_ids_ptr,
    held_ptr,
    ring_start_ptr,
    conv_pos_ptr,
    flushed_ptr,
    last_tokens_ptr,
    rand_seed_ptr,
    accepted_ptr,
    clamped_ptr,
    row_cursors_ptr,
    # sizes
    rows,
    slots,
    # constants
    T: tl.constexpr,
    WINDOW: tl.constexpr,
    RING_ROWS: tl.constexpr,
    CONV_RING_ROWS: tl.constexpr,
    SIGNAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    signal_consumer(SIGNAL)
    # The last program has the last BLOCK rows, the first has what is left over.
    behind = tl.num_programs(0) - 1 - tl.program_id(0)
    end = rows - behind * BLOCK
    first_row = tl.maximum(end - BLOCK, 0)
    row = first_row + tl.arange(0, BLOCK)
    is_row = row < end
    slot = tl.load(slot_ids_ptr + row, mask=is_row, other=-1)
    live = slot >= 0

    # Around L1: programs on other multiprocessors write other slots of the same lines, and kernels
    # linked by PDL may find such a line in L1 as this one has left it.
    accepted = _load_cursor(accepted_ptr + slot, live)
    last_tokens = _load_cursor(last_tokens_ptr + slot, live)
    held = _load_cursor(held_ptr + slot, live)
    ring_start = _load_cursor(ring_start_ptr + slot, live)
    conv_pos = _load_cursor(conv_pos_ptr + slot, live)
    flushed = _load_cursor(flushed_ptr + slot, live) != 0
    seed = _load_cursor(rand_seed_ptr + slot, live)

    kept = tl.minimum(tl.maximum(accepted, 0), last_tokens)
    broken = live & (kept != accepted)
    tl.store(clamped_ptr + slot, accepted, mask=broken)
    tl.store(clamped_ptr + slots + row * 0, 1, mask=broken)

    ring_start = tl.where(flushed, (ring_start + held) % RING_ROWS, ring_start)
    held = tl.where(flushed, kept, held + kept)
    conv_pos = (conv_pos + kept) % CONV_RING_ROWS
    flushed = (held + T > WINDOW).to(tl.int32)
    seed += 1
    tl.store(accepted_ptr + slot, 0, mask=live)
    tl.store(last_tokens_ptr + slot, T, mask=live)
    tl.store(held_ptr + slot, held, mask=live)
    tl.store(ring_start_ptr + slot, ring_start, mask=live)
    tl.store(conv_pos_ptr + slot, conv_pos, mask=live)
    tl.store(flushed_ptr + slot, flushed, mask=live)
    tl.store(rand_seed_ptr + slot, seed, mask=live)

    flushes = live & (flushed != 0)
    line = first_row + mixed_place(flushes, row - first_row, end - first_row, behind == 0)
    row_ptrs = row_cursors_ptr + line * COLUMNS
    tl.store(row_ptrs + SLOT, slot, mask=is_row)
    tl.store(row_ptrs + HELD, tl.where(live, held, 0), mask=is_row)
    tl.store(row_ptrs + RING_START, tl.where(live, ring_start, 0), mask=is_row)
    tl.store(row_ptrs + FLUSHED, tl.where(live, flushed, 0), mask=is_row)
    tl.store(row_ptrs + CONV_POS, tl.where(live, conv_pos, 0), mask=is_row)
    tl.store(row_ptrs + RAND_SEED, tl.where(live, seed, 0), mask=is_row)
    tl.store(row_ptrs + ROW, row, mask=is_row)
    for column in tl.static_range(UNUSED, COLUMNS):
        tl.store(row_ptrs + column, 0, mask=is_row)


def advance(
    slot_ids: Tensor,
    cursors: Cursors,
    row_cursors: Tensor,
    *,
    tokens: int,
    window: int,
    ring_rows: int,
    conv_rows: int,
    links: PdlLinks,
) -> Compiled:
    """Commit ``cursors.accepted`` for the slots of this launch; mutates every cursor.

    slot_ids: (rows,) int32, -1 is padding and touches nothing. ``accepted`` is read, clamped to
    0 … last T (``clamped`` tells the host) and reset to 0, so a forgotten write commits nothing.
    row_cursors: (rows, 8) int64, `Scratch.row_cursors`, overwritten for every row of the launch.
    links: a linked conv1d may start, and wait, while this runs.
    """
    rows = slot_ids.shape[0]
    # The rows of a single warp are put in order without a barrier.
    block = _ROWS_OF_A_WARP if rows <= _ROWS_OF_A_WARP else MIXED
    return _advance_kernel[(triton.cdiv(rows, block),)](
        slot_ids,
        cursors.held,
        cursors.ring_start,
        cursors.conv_pos,
        cursors.flushed,
        cursors.last_tokens,
        cursors.rand_seed,
        cursors.accepted,
        cursors.clamped,
        row_cursors,
        rows,
        cursors.held.shape[0],
        T=tokens,
        WINDOW=window,
        RING_ROWS=ring_rows,
        CONV_RING_ROWS=conv_rows,
        SIGNAL=links.conv1d,
        BLOCK=block,
        num_warps=block // _ROWS_OF_A_WARP,
    )


@settled
@triton.jit(do_not_specialize=["rows"])
def _accept_kernel(slot_ids_ptr, counts_ptr, accepted_ptr, rows, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slot_ids_ptr + row, mask=row < rows, other=-1)
    count = tl.load(counts_ptr + row, mask=row < rows, other=0)
    tl.store(accepted_ptr + slot, count, mask=slot >= 0)


def accept(slot_ids: Tensor, counts: Tensor, accepted: Tensor) -> Compiled:
    """Write ``accepted[slot_ids[row]] = counts[row]`` for every live row. counts: (rows,) int32."""
    rows = slot_ids.shape[0]
    return _accept_kernel[(triton.cdiv(rows, _ACCEPTED_ROWS),)](
        slot_ids, counts, accepted, rows, BLOCK=_ACCEPTED_ROWS, num_warps=4
    )
