# SPDX-License-Identifier: Apache-2.0
"""The read-out of one token from an fp32 state, by sums of each thread's own and no tensor core.

    y [P] = sum over n of state [P, N] C [N]

A product has 8 tokens at least and takes fp32 in two parts: of its work an eighth is wanted then.
Here all rows of C [8 tokens, N] are that token's, so that a thread has C where it has the state:
with lane = 4 g + t (`graphrt.kernels.fragments`) the same n, whatever g is.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl
from triton.runtime.jit import constexpr_function

from graphrt.kernels.fragments import in_turn, linear, multiplied_at_once, powers
from graphrt.kernels.gluon import gl, jit
from graphrt.kernels.renames import columns_from, rows_of_product
from graphrt.kernels.state_tile import state_columns


@constexpr_function
def is_by_sums(dtype: tl.dtype, tokens: int) -> bool:
    """Return whether ``tokens`` are read out from a state of ``dtype`` by `read_out_by_sums`."""
    return bool(dtype == tl.float32) and tokens == 1


@constexpr_function
def rows_of_g_layout(rows: int, columns: int, v: int, warps: int, row_warps: int) -> Any:
    """Return the layout [rows / 8, 8 of g, columns] of a `state_layout` whose warps share no N."""
    own = rows // (8 * row_warps)
    return linear(
        [[0, 0, n] for n in powers(1, v)]
        + [[f, 0, 0] for f in powers(1, own)]
        + [[0, 0, n] for n in powers(4 * v, columns)],
        [[0, 0, v], [0, 0, 2 * v], [0, 1, 0], [0, 2, 0], [0, 4, 0]],
        [[f, 0, 0] for f in powers(own, rows // 8)]
        + [[0, 0, 0] for _ in powers(1, warps // row_warps)],
        [rows // 8, 8, columns],
    )


@jit
def read_out_by_sums(
    state, c, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, V: tl.constexpr, WARPS: tl.constexpr,
    IN_SHARED: tl.constexpr, ROW_WARPS: tl.constexpr = 1, PAIRED: tl.constexpr = False,
):  # fmt: skip
    """Return the state times C, fp32 [ROWS].

    state: as `state_tile.ask_for_state` returns it. c: [8, BLOCK_N] in a `c_layout`, rows alike.
    A thread's columns of a step are sums of their own, so that few additions wait for another.
    """
    COLUMNS: tl.constexpr = multiplied_at_once(BLOCK_N, V)
    OWN: tl.constexpr = ROWS // (8 * ROW_WARPS)
    E: tl.constexpr = in_turn(PAIRED)
    OF_G: tl.constexpr = rows_of_g_layout(ROWS, COLUMNS, V, WARPS, ROW_WARPS)
    total = gl.zeros([ROWS // 8, 8, COLUMNS], gl.float32, OF_G)
    for FIRST in gl.static_range(0, BLOCK_N, COLUMNS):
        tile = state_columns(
            state, FIRST, ROWS, COLUMNS, V, WARPS, True, IN_SHARED, ROW_WARPS, PAIRED
        )
        rows = gl.permute(gl.reshape(tile, [ROW_WARPS, 8 // E, OWN, E, COLUMNS]), [0, 2, 1, 3, 4])
        rows = gl.reshape(rows, [ROWS // 8, 8, COLUMNS])
        rows = gl.convert_layout(rows, OF_G, assert_trivial=True)
        alike = gl.convert_layout(
            columns_from(c, FIRST, COLUMNS), gl.SliceLayout(0, OF_G), assert_trivial=True
        )
        total = gl.fma(rows, alike.to(gl.float32)[None, :, :], total)
    sums = gl.reshape(gl.sum(total, 2), [ROW_WARPS, OWN, 8 // E, E])
    return gl.reshape(gl.permute(sums, [0, 2, 1, 3]), [ROWS])


@jit
def for_tokens(sums, OUT: tl.constexpr):
    """Return [rows of P] as a row [1, rows of P] of y [tokens, rows of P] in ``OUT``."""
    return gl.convert_layout(sums, gl.SliceLayout(0, OUT))[None, :]


@jit
def for_rows(
    sums, PRODUCT: tl.constexpr, ROW_WARPS: tl.constexpr = 1, PAIRED: tl.constexpr = False
):
    """Return [rows of P] as a column [rows of P, 1] of a product in ``PRODUCT``."""
    ROWS: tl.constexpr = sums.shape[0]
    rows = rows_of_product(gl.reshape(sums, [ROWS, 1]), ROW_WARPS, PAIRED)
    rows = gl.reshape(rows, [ROWS])
    return gl.convert_layout(rows, gl.SliceLayout(1, PRODUCT), assert_trivial=True)[:, None]
