# SPDX-License-Identifier: Apache-2.0
"""The read-out: the checkpoint times each token's C, a few columns of N at a time."""

from __future__ import annotations

import triton.language as tl

from graphrt.kernels.fragments import columns_of_p_layout, multiplied_at_once, product_layout
from graphrt.kernels.gluon import gl, jit
from graphrt.kernels.products import product_apart
from graphrt.kernels.renames import columns_from, rows_of_product
from graphrt.kernels.state_tile import state_columns
from graphrt.kernels.token_rows import state_columns_of, token_rows


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
):
    """Return the state times C, on top of ``high`` and ``low``: [ROWS, BLOCK_T], a product's rows.

    state: as `state_tile.ask_for_state` returns it. c: [BLOCK_T, BLOCK_N].
    """
    COLUMNS: tl.constexpr = multiplied_at_once(BLOCK_N, V)
    PRODUCT: tl.constexpr = product_layout(WARPS)
    for FIRST in gl.static_range(0, BLOCK_N, COLUMNS):
        rows = rows_of_product(
            state_columns(state, FIRST, ROWS, COLUMNS, V, WARPS, True, IN_SHARED)
        )
        columns = gl.permute(columns_from(c, FIRST, COLUMNS), [1, 0])
        high, low = product_apart(
            gl.convert_layout(rows, gl.DotOperandLayout(0, PRODUCT, V), assert_trivial=True),
            gl.convert_layout(columns, gl.DotOperandLayout(1, PRODUCT, V), assert_trivial=True),
            high,
            low,
        )
    return high + low


@jit
def read_out_by_token(
    state, c, zero, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, V: tl.constexpr,
    WARPS: tl.constexpr, IN_SHARED: tl.constexpr, ROW_WARPS: tl.constexpr, PAIRED: tl.constexpr,
):  # fmt: skip
    """Return the same with tokens as rows and the state's rows as columns, [16, ROWS].

    zero: added to the 0 that the products start from. state: as in `read_out`.
    """
    COLUMNS: tl.constexpr = multiplied_at_once(BLOCK_N, V)
    high = gl.zeros([16, ROWS], gl.float32, columns_of_p_layout(WARPS, ROW_WARPS)) + zero
    low = high
    for FIRST in gl.static_range(0, BLOCK_N, COLUMNS):
        tile = state_columns(state, FIRST, ROWS, COLUMNS, V, WARPS, True, IN_SHARED, PAIRED)
        rows = token_rows(columns_from(c, FIRST, COLUMNS), V, WARPS, ROW_WARPS)
        high, low = product_apart(
            rows, state_columns_of(tile, V, WARPS, ROW_WARPS, PAIRED), high, low, True
        )
    return high + low
