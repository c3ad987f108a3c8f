# SPDX-License-Identifier: Apache-2.0
"""Products whose rows are of P and whose columns are tokens: what a launch's outputs are made of.

    y^T [P, token] = state [P, N] C^T [N, token]  +  x^T [P, j] causal^T [j, token]

Which thread has what of them: `graphrt.kernels.fragments`. Of 16 rows and 8 columns that a product
has at least a launch of up to 8 tokens leaves none empty, where tokens as rows would leave half.
"""

from __future__ import annotations

import triton.language as tl

from graphrt.kernels.fragments import multiplied_at_once, rows_of_p_layout
from graphrt.kernels.gluon import gl, jit
from graphrt.kernels.products import product, product_apart
from graphrt.kernels.renames import columns_from, padded_rows, rows_of_product, x_rows
from graphrt.kernels.state_tile import state_columns


@jit
def read_out(
    state,
    c,
    high,
    low,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    V: tl.constexpr,
    WARPS: tl.constexpr,
    IN_SHARED: tl.constexpr,
    ROW_WARPS: tl.constexpr = 1,
    PAIRED: tl.constexpr = False,
):
    """Return the state times C, on top of ``high`` and ``low``: [ROWS, BLOCK_T], a product's rows.

    state: as `state_tile.ask_for_state` returns it. c: [BLOCK_T, BLOCK_N]. A few columns of N at a
    time.
    """
    COLUMNS: tl.constexpr = multiplied_at_once(BLOCK_N, V)
    PRODUCT: tl.constexpr = rows_of_p_layout(WARPS, ROW_WARPS)
    for FIRST in gl.static_range(0, BLOCK_N, COLUMNS):
        tile = state_columns(
            state, FIRST, ROWS, COLUMNS, V, WARPS, True, IN_SHARED, ROW_WARPS, PAIRED
        )
        rows = rows_of_product(tile, ROW_WARPS, PAIRED)
        columns = gl.permute(columns_from(c, FIRST, COLUMNS), [1, 0])
        high, low = product_apart(
            gl.convert_layout(rows, gl.DotOperandLayout(0, PRODUCT, V), assert_trivial=True),
            gl.convert_layout(columns, gl.DotOperandLayout(1, PRODUCT, V), assert_trivial=True),
            high,
            low,
        )
    return high + low


@jit
def x_times_causal(
    # [history, rows of P] and [tokens, rows of P]
    x_past,
    x_new,
    # [tokens, history] and [tokens, tokens], and the second planes of both
    past,
    new,
    low_past,
    low_new,
    # added to, [a product's rows of P, tokens]
    zero,
    PLANES: tl.constexpr,
    WARPS: tl.constexpr,
    ROW_WARPS: tl.constexpr = 1,
    PAIRED: tl.constexpr = False,
):
    """Return the causal matrix times x, transposed, rows and columns a product's.

    PLANES: of one, in fp32, ``low_past`` and ``low_new`` are not looked at.
    """
    past_rows = x_rows(x_past, WARPS, ROW_WARPS, PAIRED)
    new_rows = x_rows(padded_rows(x_new, 16), WARPS, ROW_WARPS, PAIRED)
    within = zero
    if PLANES == 2:
        within = product(past_rows, _causal_columns(low_past, WARPS, ROW_WARPS), within)
        within = product(new_rows, _causal_columns(low_new, WARPS, ROW_WARPS), within)
    within = product(new_rows, _causal_columns(new, WARPS, ROW_WARPS), within)
    return product(past_rows, _causal_columns(past, WARPS, ROW_WARPS), within)


@jit
def _causal_columns(causal, WARPS: tl.constexpr, ROW_WARPS: tl.constexpr):
    """Return a part of the causal matrix as the columns of a product with x, 16 rows or more."""
    PRODUCT: tl.constexpr = rows_of_p_layout(WARPS, ROW_WARPS)
    ROWS: tl.constexpr = max(causal.shape[1], 16)
    rows = padded_rows(gl.permute(causal, [1, 0]), ROWS)
    return gl.convert_layout(rows, gl.DotOperandLayout(1, PRODUCT, 2), assert_trivial=True)
