# SPDX-License-Identifier: Apache-2.0
"""The tile of the state that a program works on: asked for before the wait, used after it.

Where it waits is a matter of room. In registers it is there at once. In shared memory it leaves
registers to others, so that more programs have their states on the way, and the warps of a state
update can each take what they need.
"""

from __future__ import annotations

import triton.language as tl

from graphrt.kernels.fragments import in_turn, lines_layout, slots_layout, state_layout
from graphrt.kernels.gluon import fetch, fetched, gl, jit, part, put
from graphrt.kernels.renames import columns_from
from graphrt.kernels.tuning import FusedLaunch, StateUpdateLaunch


def waits_in_shared(
    launch: StateUpdateLaunch | FusedLaunch, state_dim: int, element_size: int
) -> bool:
    """Return whether a state waits in shared memory: as ``launch`` says, if a row can be copied."""
    return launch.in_shared and state_dim * element_size % 4 == 0  # as cp.async copies


@jit
def ask_for_state(
    # of this slot and head
    state_ptr,
    first_row,
    live,
    # constants
    P: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    V: tl.constexpr,
    WARPS: tl.constexpr,
    IN_SHARED: tl.constexpr,
    ROW_WARPS: tl.constexpr = 1,
    PAIRED: tl.constexpr = False,
):
    """Return the rows of P from ``first_row`` on; 0 outside P and N, and where not ``live``.

    Shared memory, or a tile [ROWS, BLOCK_N] in registers: for `state_columns`.
    """
    if IN_SHARED:
        LOADS: tl.constexpr = ROWS // 8 * BLOCK_N // (4 * V)
        p, n = _by_lines(LOADS, ROWS, V, WARPS, ROW_WARPS, PAIRED)
        # The halves of a line, copied at once, lie in different banks.
        BANKS: tl.constexpr = gl.SwizzledSharedLayout(4 * V, ROWS // 8, 2, [1, 0])
        state = gl.allocate_shared_memory(state_ptr.dtype.element_ty, [LOADS, 32 * V], BANKS)
        p += first_row
        fetch(state, state_ptr + p * N + n, (p < P) & (n < N) & live)
    else:
        TILE: tl.constexpr = state_layout(ROWS, BLOCK_N, V, WARPS, False, ROW_WARPS, PAIRED)
        p = first_row + gl.arange(0, ROWS, layout=gl.SliceLayout(1, TILE))[:, None]
        n = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, TILE))[None, :]
        state = gl.load(state_ptr + p * N + n, mask=(p < P) & (n < N) & live, other=0.0)
    return state


@jit
def _by_lines(
    LOADS: tl.constexpr,
    ROWS: tl.constexpr,
    V: tl.constexpr,
    WARPS: tl.constexpr,
    ROW_WARPS: tl.constexpr,
    PAIRED: tl.constexpr,
):
    """Return the row of P and the column of N of each element of shared memory, [LOADS, 32 V]."""
    OWN: tl.constexpr = ROWS // (8 * ROW_WARPS)
    LINES: tl.constexpr = lines_layout(LOADS, OWN, V, WARPS, ROW_WARPS, PAIRED)
    load = gl.arange(0, LOADS, layout=gl.SliceLayout(1, LINES))[:, None]
    place = gl.arange(0, 32 * V, layout=gl.SliceLayout(0, LINES))[None, :]
    group, own, warp = place // (4 * V), load % OWN, load // OWN % ROW_WARPS
    E: tl.constexpr = in_turn(PAIRED)
    p = warp * (8 * OWN) + group // E * (E * OWN) + own * E + group % E
    return p, load // (OWN * ROW_WARPS) * (4 * V) + place % (4 * V)


@jit
def wait_for_state(IN_SHARED: tl.constexpr):
    """Block until what `ask_for_state` asked for has arrived; registers wait by themselves."""
    if IN_SHARED:
        fetched()


@jit
def state_columns(
    state,
    FIRST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    V: tl.constexpr,
    WARPS: tl.constexpr,
    WHOLE: tl.constexpr,
    IN_SHARED: tl.constexpr,
    ROW_WARPS: tl.constexpr,
    PAIRED: tl.constexpr = False,
):
    """Return COLUMNS columns of the tile from FIRST on, [ROWS, COLUMNS].

    WHOLE: for every warp all of them, not its share.
    """
    if IN_SHARED:
        OWN: tl.constexpr = ROWS // (8 * ROW_WARPS)
        LINE: tl.constexpr = max(COLUMNS, 8 * V)
        LOADS: tl.constexpr = ROWS // 8 * LINE // (4 * V)
        SLOTS: tl.constexpr = slots_layout(LOADS, OWN, V, WARPS, WHOLE, ROW_WARPS)
        slots = part(state, LOADS * (FIRST // LINE), LOADS, SLOTS)
        E: tl.constexpr = in_turn(PAIRED)
        apart = gl.reshape(slots, [LINE // (4 * V), ROW_WARPS, OWN, 8 // E, E, 4 * V])
        tile = gl.reshape(gl.permute(apart, [1, 3, 2, 4, 0, 5]), [ROWS, LINE])
        TILE: tl.constexpr = state_layout(ROWS, LINE, V, WARPS, WHOLE, ROW_WARPS, PAIRED)
        columns = columns_from(
            gl.convert_layout(tile, TILE, assert_trivial=True), FIRST % LINE, COLUMNS
        )
    else:
        columns = columns_from(state, FIRST, COLUMNS)
    return columns


@jit
def put_columns(
    state,
    tile,
    FIRST: tl.constexpr,
    V: tl.constexpr,
    WARPS: tl.constexpr,
    PAIRED: tl.constexpr,
):
    """Put COLUMNS columns of a tile [ROWS, COLUMNS], whose rows all warps share, where they lie."""
    OWN: tl.constexpr = tile.shape[0] // (8 * WARPS)
    COLUMNS: tl.constexpr = tile.shape[1]
    LOADS: tl.constexpr = tile.shape[0] // 8 * COLUMNS // (4 * V)
    SLOTS: tl.constexpr = slots_layout(LOADS, OWN, V, WARPS, True, WARPS)
    E: tl.constexpr = in_turn(PAIRED)
    apart = gl.reshape(tile, [WARPS, 8 // E, OWN, E, COLUMNS // (4 * V), 4 * V])
    slots = gl.reshape(gl.permute(apart, [4, 0, 2, 1, 3, 5]), [LOADS, 32 * V])
    slots = gl.convert_layout(slots, SLOTS, assert_trivial=True)
    put(state, LOADS * (FIRST // COLUMNS), slots)


@jit
def store_state(
    state,
    # of this slot and head
    state_ptr,
    first_row,
    # constants
    P: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    V: tl.constexpr,
    WARPS: tl.constexpr,
    PAIRED: tl.constexpr,
):
    """Store a tile whose rows all warps share, from ``first_row`` on, by whole lines."""
    OWN: tl.constexpr = ROWS // (8 * WARPS)
    LOADS: tl.constexpr = ROWS // 8 * BLOCK_N // (4 * V)
    p, n = _by_lines(LOADS, ROWS, V, WARPS, WARPS, PAIRED)
    p += first_row
    tile = part(state, 0, LOADS, lines_layout(LOADS, OWN, V, WARPS, WARPS, PAIRED))
    gl.store(state_ptr + p * N + n, tile, mask=(p < P) & (n < N))
