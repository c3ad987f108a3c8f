# SPDX-License-Identifier: Apache-2.0
"""The fold: the history goes into the checkpoint, of which the state update stores the result.

S0 <- exp(cum_h) S0 + sum_j exp(cum_h - cum_j) dt_j x_j B_j^T   over the history
"""

from __future__ import annotations

import triton.language as tl

from graphrt.kernels.fragments import (
    at_once,
    b_layout,
    folded_at_once,
    octets_layout,
    rows_of_p_layout,
    state_layout,
)
from graphrt.kernels.gluon import gl, jit
from graphrt.kernels.products import product_in_bf16
from graphrt.kernels.renames import (
    columns_from,
    columns_of_memory,
    columns_of_product,
    rows_of_memory,
)
from graphrt.kernels.rounding import round_stochastic, stochastic_words
from graphrt.kernels.state_tile import put_columns, state_columns, store_state


@jit
def b_of_history(
    # of this slot and group
    b_ring_ptr,
    ring_start,
    held,
    # constants
    N: tl.constexpr,
    RING_ROWS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    V: tl.constexpr,
    WARPS: tl.constexpr,
    ROW_WARPS: tl.constexpr = 1,
):
    """Return B of the ``held`` tokens of the history [BLOCK_W, BLOCK_N], 0 after them."""
    HISTORY: tl.constexpr = b_layout(BLOCK_W, BLOCK_N, V, WARPS, ROW_WARPS)
    past = gl.arange(0, BLOCK_W, layout=gl.SliceLayout(1, HISTORY))
    n = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, HISTORY))
    return gl.load(
        b_ring_ptr + ((ring_start + past) % RING_ROWS)[:, None] * N + n[None, :],
        mask=(past < held)[:, None] & (n < N)[None, :],
        other=0.0,
    )


@jit
def fold(
    # of this slot and head
    state_ptr,
    # the tile, its first row of P, and what it is folded with
    state,
    first_row,
    weighted,
    b_past,
    decay,
    # random draws: of the head's first element
    seed,
    first_octet,
    layer,
    # constants
    P: tl.constexpr,
    N: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    V: tl.constexpr,
    WARPS: tl.constexpr,
    IN_SHARED: tl.constexpr,
    TURNED: tl.constexpr,
    ROW_WARPS: tl.constexpr = 1,
    PAIRED: tl.constexpr = False,
):
    """Store a tile's state after the whole history, a few columns of N at a time that warps share.

    state: as `state_tile.ask_for_state` returns it. weighted: (rows, W') fp32, x times a token's
    weight, rows and layout a product's; 0 after the history. b_past: as `b_of_history` returns it,
    or where TURNED as `renames.turned` does, where no warps share columns. decay: of the state.
    """
    tl.static_assert(not (PAIRED and STOCHASTIC), "draws are for rows that are consecutive")
    # By half lines a launch where all slots flush takes 5 % longer.
    BY_LINES: tl.constexpr = IN_SHARED and WARPS == ROW_WARPS
    COLUMNS: tl.constexpr = folded_at_once(BLOCK_N, V, WARPS // ROW_WARPS, BY_LINES)
    STATE: tl.constexpr = state_layout(ROWS, COLUMNS, V, WARPS, False, ROW_WARPS, PAIRED)
    p = first_row + gl.arange(0, ROWS, layout=gl.SliceLayout(1, STATE))
    for FIRST in gl.static_range(0, BLOCK_N, COLUMNS):
        folded = _folded(
            state, weighted, b_past, decay, seed, first_octet + first_row * ((N + 7) // 8), layer,
            N, STOCHASTIC, FIRST, COLUMNS, ROWS, BLOCK_N, V, WARPS, IN_SHARED, TURNED,
            state_ptr.dtype.element_ty, ROW_WARPS, PAIRED,
        )  # fmt: skip
        if BY_LINES:
            put_columns(state, folded, FIRST, V, WARPS, PAIRED)
        else:
            n = FIRST + gl.arange(0, COLUMNS, layout=gl.SliceLayout(0, STATE))
            mask = (p < P)[:, None] & (n < N)[None, :]
            gl.store(state_ptr + p[:, None] * N + n[None, :], folded, mask=mask)
    if BY_LINES:
        store_state(state, state_ptr, first_row, P, N, ROWS, BLOCK_N, V, WARPS, PAIRED)


@jit
def _folded(
    state, weighted, b_past, decay, seed, first_octet, layer,
    N: tl.constexpr, STOCHASTIC: tl.constexpr, FIRST: tl.constexpr, COLUMNS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, V: tl.constexpr, WARPS: tl.constexpr,
    IN_SHARED: tl.constexpr, TURNED: tl.constexpr, DTYPE: tl.constexpr, ROW_WARPS: tl.constexpr,
    PAIRED: tl.constexpr,
):  # fmt: skip
    """Return COLUMNS columns of what is stored, from FIRST on, as many at a time as are worked on.

    first_octet: of the tile's first row. Otherwise as in `fold`.
    """
    COLUMN_WARPS: tl.constexpr = WARPS // ROW_WARPS
    STATE: tl.constexpr = state_layout(ROWS, COLUMNS, V, WARPS, False, ROW_WARPS, PAIRED)
    if COLUMNS > at_once(BLOCK_N, COLUMN_WARPS):
        HALF: tl.constexpr = COLUMNS // 2
        left = _folded(
            state, weighted, b_past, decay, seed, first_octet, layer, N, STOCHASTIC, FIRST,
            HALF, ROWS, BLOCK_N, V, WARPS, IN_SHARED, TURNED, DTYPE,
            ROW_WARPS, PAIRED,
        )  # fmt: skip
        right = _folded(
            state, weighted, b_past, decay, seed, first_octet, layer, N, STOCHASTIC, FIRST + HALF,
            HALF, ROWS, BLOCK_N, V, WARPS, IN_SHARED, TURNED, DTYPE,
            ROW_WARPS, PAIRED,
        )  # fmt: skip
        both = gl.permute(gl.join(left, right), [0, 2, 1])
        stored = gl.convert_layout(gl.reshape(both, [ROWS, COLUMNS]), STATE, assert_trivial=True)
    else:
        PRODUCT: tl.constexpr = rows_of_p_layout(WARPS, ROW_WARPS)
        PARTS: tl.constexpr = 3 if DTYPE == gl.float32 else 2  # 16 bits; 11 or 8 are stored
        b = gl.convert_layout(
            columns_of_product(columns_from(b_past, FIRST, COLUMNS), V, COLUMN_WARPS, TURNED),
            gl.DotOperandLayout(1, PRODUCT, 2),
            assert_trivial=True,
        )
        old = state_columns(
            state, FIRST, ROWS, COLUMNS, V, WARPS, False, IN_SHARED, ROW_WARPS, PAIRED
        )
        zero = gl.zeros([max(ROWS, 16 * ROW_WARPS), COLUMNS], gl.float32, PRODUCT)
        added = product_in_bf16(weighted, b, zero, PARTS)
        added = columns_of_memory(added, V, COLUMN_WARPS, TURNED)
        added = rows_of_memory(added, ROWS, ROW_WARPS, PAIRED)
        added = gl.convert_layout(added, STATE, assert_trivial=True)
        old = gl.convert_layout(old, STATE, assert_trivial=True)
        folded = gl.fma(old.to(gl.float32), decay, added)
        if STOCHASTIC:
            octet = first_octet + FIRST // 8
            stored = _rounded(folded, seed, octet, layer, (N + 7) // 8, V, WARPS, ROW_WARPS, DTYPE)
        else:
            stored = folded.to(DTYPE)
    return stored


@jit
def _rounded(
    folded,
    seed,
    first_octet,
    layer,
    ROW_OCTETS: tl.constexpr,
    V: tl.constexpr,
    WARPS: tl.constexpr,
    ROW_WARPS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Return columns of a tile rounded by random draws, numbered from ``first_octet`` on."""
    ROWS: tl.constexpr = folded.shape[0]
    OCTETS: tl.constexpr = folded.shape[1] // 8
    DRAWS: tl.constexpr = octets_layout(ROWS, OCTETS, V, WARPS, ROW_WARPS)
    row = gl.arange(0, ROWS, layout=gl.SliceLayout(1, DRAWS))
    octet = gl.arange(0, OCTETS, layout=gl.SliceLayout(0, DRAWS))
    octets = (first_octet + row * ROW_OCTETS)[:, None] + octet[None, :]
    words = stochastic_words(seed, octets.to(gl.uint32), layer, ROWS, OCTETS)
    words = gl.convert_layout(words, state_layout(ROWS, 8 * OCTETS, V, WARPS, False, ROW_WARPS))
    return round_stochastic(folded, words, DTYPE)
