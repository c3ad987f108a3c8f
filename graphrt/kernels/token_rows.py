# SPDX-License-Identifier: Apache-2.0
"""Products whose rows are tokens, the fused kernels': what they meet lies as it was loaded.

C and the causal matrix are rows, of 16 that a product has the first 8 or all. Columns are tokens of
the history or of the launch, and rows of P. With lane = 4 g + t (`graphrt.kernels.fragments`):

    C      [token, N]  token = g, n = V consecutive for t               rows of a product
    B      [j, N]      j = g, the same n                                columns of a product
    state  [P, N]      p = 2, 4 or 8 consecutive for g, the same n      columns of a product
    causal [token, j]  token = g, j = 2t, 2t + 1, 8 + 2t, 9 + 2t        a product, then its rows
    x      [j, P]      the same j, p as the state                       columns of a product
    y      [token, P]  token = g, p twice as many consecutive, for t    a product, stored as it is

P's columns are numbered (f, q, e) where memory has (q, f, e), g being (q, e), with one e. PAIRED
with two: p of the state and x is every other of those of two lanes, and x is loaded once, as y will
be; what an instruction turns (`graphrt.kernels.renames.by_p`) are its columns. The read-out and y
may have P as rows instead: `graphrt.kernels.fused_outputs` says when.
"""

from __future__ import annotations

import triton.language as tl

from graphrt.kernels.fragments import (
    in_turn,
    multiplied_at_once,
    product_layout,
    whole_product_layout,
)
from graphrt.kernels.gluon import gl, jit
from graphrt.kernels.products import product, product_apart
from graphrt.kernels.renames import columns_from, padded_rows
from graphrt.kernels.state_tile import state_columns


@jit
def token_rows(value, V: tl.constexpr, PRODUCT: tl.constexpr):
    """Return [8 or 16 tokens, K] as the rows of a ``PRODUCT``; a thread has V of K together."""
    ROWS: tl.constexpr = gl.DotOperandLayout(0, PRODUCT, V)
    return gl.convert_layout(padded_rows(value, 16), ROWS, assert_trivial=True)


@jit
def causal_rows(causal, WARPS: tl.constexpr):
    """Return a part of the causal matrix [tokens, columns] as rows of a product, 16 columns up."""
    if causal.shape[1] == 8:
        both = gl.permute(gl.join(causal, gl.zeros_like(causal)), [0, 2, 1])
        causal = gl.reshape(both, [causal.shape[0], 16])
    return token_rows(causal, 2, product_layout(WARPS))


@jit
def b_columns(b, V: tl.constexpr, WARPS: tl.constexpr):
    """Return B [tokens or history, N] as the columns of a product."""
    COLUMNS: tl.constexpr = gl.DotOperandLayout(1, whole_product_layout(WARPS), V)
    return gl.convert_layout(gl.permute(b, [1, 0]), COLUMNS, assert_trivial=True)


@jit
def products_with_b(c, b, zero, V: tl.constexpr, WARPS: tl.constexpr):
    """Return C_t . B_j of every token t and b's tokens j, [16, b's tokens], rows a product's.

    c: [8 or 16 tokens, N]. b: [history or tokens, N], in the order of a product's columns. zero:
    added to the 0 that the products start from.
    """
    N: tl.constexpr = c.shape[1]
    COLUMNS: tl.constexpr = multiplied_at_once(N, V)
    PRODUCT: tl.constexpr = whole_product_layout(WARPS)
    low = gl.zeros([16, b.shape[0]], gl.float32, PRODUCT)
    high = low + zero
    for FIRST in gl.static_range(0, N, COLUMNS):
        rows = token_rows(columns_from(c, FIRST, COLUMNS), V, PRODUCT)
        columns = b_columns(columns_from(b, FIRST, COLUMNS), V, WARPS)
        high, low = product_apart(rows, columns, high, low)
    return high + low if c.dtype == gl.float32 else high


@jit
def state_columns_of(tile, V: tl.constexpr, WARPS: tl.constexpr, PAIRED: tl.constexpr):
    """Return a state tile [rows of P, N] as the columns of a product."""
    COLUMNS: tl.constexpr = gl.DotOperandLayout(1, product_layout(WARPS), V)
    P: tl.constexpr = tile.shape[0]
    N: tl.constexpr = tile.shape[1]
    E: tl.constexpr = in_turn(PAIRED)
    apart = gl.reshape(tile, [WARPS, 8 // E, P // (8 * WARPS), E, N])
    apart = gl.permute(apart, [2, 0, 1, 3, 4])
    tile = gl.permute(gl.reshape(apart, [P, N]), [1, 0])
    return gl.convert_layout(tile, COLUMNS, assert_trivial=True)


@jit
def x_columns(x, WARPS: tl.constexpr, PAIRED: tl.constexpr):
    """Return x [16 tokens or more, rows of P] as the columns of a product."""
    COLUMNS: tl.constexpr = gl.DotOperandLayout(1, product_layout(WARPS), 2)
    J: tl.constexpr = x.shape[0]
    P: tl.constexpr = x.shape[1]
    E: tl.constexpr = in_turn(PAIRED)
    apart = gl.reshape(x, [J, WARPS, 8 // E, P // (8 * WARPS), E])
    apart = gl.permute(apart, [0, 3, 1, 2, 4])
    return gl.convert_layout(gl.reshape(apart, [J, P]), COLUMNS, assert_trivial=True)


@jit
def causal_times_x(
    causal_past, causal_new, x_past, x_new, PLANES: tl.constexpr, WARPS: tl.constexpr,
    PAIRED: tl.constexpr,
):  # fmt: skip
    """Return the causal matrix times x, [16, rows of P], rows and columns a product's.

    x_past, x_new: [history or tokens, rows of P], in an `x_layout`.
    PLANES: as precompute hands the matrix on, in one of fp32, or in one as x and what that left.
    """
    x_past = x_columns(x_past, WARPS, PAIRED)
    x_new = x_columns(padded_rows(x_new, 16), WARPS, PAIRED)
    none = gl.zeros([16, x_past.shape[1]], gl.float32, product_layout(WARPS))
    if PLANES == 2:
        high_past, high_new = causal_past.to(x_past.dtype), causal_new.to(x_new.dtype)
        low_past = (causal_past - high_past.to(gl.float32)).to(x_past.dtype)
        low_new = (causal_new - high_new.to(gl.float32)).to(x_new.dtype)
        within = product(causal_rows(low_past, WARPS), x_past, none)
        within = product(causal_rows(low_new, WARPS), x_new, within)
        within = product(causal_rows(high_new, WARPS), x_new, within)
        within = product(causal_rows(high_past, WARPS), x_past, within)
    else:
        within = product(causal_rows(causal_new, WARPS), x_new, none, True)
        within = product(causal_rows(causal_past, WARPS), x_past, within, True)
    return within


@jit
def of_tokens(rows, BLOCK_T: tl.constexpr):
    """Return the rows of a product [16, columns] that are tokens: the first 8 or all."""
    found = rows
    if BLOCK_T == 8:
        halves = gl.permute(gl.reshape(rows, [2, 8, rows.shape[1]]), [1, 2, 0])
        found, _ = gl.split(halves)
    return found


@jit
def y_of(
    rows,
    LAYOUT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    WARPS: tl.constexpr,
    PAIRED: tl.constexpr,
):
    """Return a product's y [BLOCK_T, rows of P] in the order of memory, in ``LAYOUT``."""
    P: tl.constexpr = rows.shape[1]
    E: tl.constexpr = in_turn(PAIRED)
    shape: tl.constexpr = [BLOCK_T, P // (8 * WARPS), WARPS, 8 // E, E]
    apart = gl.reshape(of_tokens(rows, BLOCK_T), shape)
    y = gl.reshape(gl.permute(apart, [0, 2, 3, 1, 4]), [BLOCK_T, P])
    return gl.convert_layout(y, LAYOUT, assert_trivial=True)


@jit
def read_out_by_token(
    state, c, zero, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, V: tl.constexpr,
    WARPS: tl.constexpr, IN_SHARED: tl.constexpr, PAIRED: tl.constexpr,
):  # fmt: skip
    """Return the state times C, tokens as rows and rows of P as columns of a product, [16, ROWS].

    state: as `state_tile.ask_for_state` returns it. zero: added to the 0 that products start from.
    """
    COLUMNS: tl.constexpr = multiplied_at_once(BLOCK_N, V)
    high = gl.zeros([16, ROWS], gl.float32, product_layout(WARPS)) + zero
    low = high
    for FIRST in gl.static_range(0, BLOCK_N, COLUMNS):
        tile = state_columns(state, FIRST, ROWS, COLUMNS, V, WARPS, True, IN_SHARED, WARPS, PAIRED)
        rows = token_rows(columns_from(c, FIRST, COLUMNS), V, product_layout(WARPS))
        high, low = product_apart(rows, state_columns_of(tile, V, WARPS, PAIRED), high, low, True)
    return high + low
