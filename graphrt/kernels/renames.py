# SPDX-License-Identifier: Apache-2.0
"""The orders in which products number rows and columns, where memory has another.

Rows of a product are numbered (m, h, g) where memory has (q, m, h, e): `rows_of_product`. g is
(q, e), PAIRED with two e, else with one. Where warps share rows their number w is the second, and
memory's first. The columns that the fold's product gives are numbered (i, f, t, e) where memory has
(i, t, e, f): `columns_of_product`. The fused kernels have B in a `c_layout` when a fold wants it,
and turn it (`turned`); then the product's columns are (i, r, t, e) where memory has (i, t, r, e).
x and y are turned too (`by_p`, `by_token`). All else only renames a thread's registers, which hold
what `graphrt.kernels.fragments` says.
"""

from __future__ import annotations

import triton.language as tl

from graphrt.kernels.fragments import (
    in_turn,
    out_layout,
    rows_of_p_layout,
    turned_layout,
    x_layout,
)
from graphrt.kernels.gluon import gl, jit
from graphrt.kernels.ptx import INTERPRETED, turned_blocks


@jit
def rows_of_product(value, ROW_WARPS: tl.constexpr = 1, PAIRED: tl.constexpr = False):
    """Return [rows of P, K] with its rows in a product's order; 8 of a warp are followed by 0."""
    ROWS: tl.constexpr = value.shape[0]
    K: tl.constexpr = value.shape[1]
    if ROWS == 8 * ROW_WARPS:
        both = gl.reshape(gl.join(value, gl.zeros_like(value)), [ROW_WARPS, 8, K, 2])
        found = gl.reshape(gl.permute(both, [0, 3, 1, 2]), [2 * ROWS, K])
    else:
        E: tl.constexpr = in_turn(PAIRED)
        apart = gl.reshape(value, [ROW_WARPS, 8 // E, ROWS // (16 * ROW_WARPS), 2, E, K])
        found = gl.reshape(gl.permute(apart, [2, 0, 3, 1, 4, 5]), [ROWS, K])
    return found


@jit
def x_rows(x, WARPS: tl.constexpr, ROW_WARPS: tl.constexpr = 1, PAIRED: tl.constexpr = False):
    """Return x [tokens or history, BLOCK_P] as the rows of a product."""
    X_ROWS: tl.constexpr = gl.DotOperandLayout(0, rows_of_p_layout(WARPS, ROW_WARPS), 2)
    rows = rows_of_product(gl.permute(x, [1, 0]), ROW_WARPS, PAIRED)
    return gl.convert_layout(rows, X_ROWS, assert_trivial=True)


@jit
def rows_of_memory(
    value, ROWS: tl.constexpr, ROW_WARPS: tl.constexpr = 1, PAIRED: tl.constexpr = False
):
    """Return the ROWS of P that a product [rows, K] has, in the order of memory."""
    K: tl.constexpr = value.shape[1]
    if ROWS == 8 * ROW_WARPS:
        apart = gl.reshape(value, [ROW_WARPS, 2, 8, K])
        first, _ = gl.split(gl.permute(apart, [0, 2, 3, 1]))
        found = gl.reshape(first, [ROWS, K])
    else:
        E: tl.constexpr = in_turn(PAIRED)
        apart = gl.reshape(value, [ROWS // (16 * ROW_WARPS), ROW_WARPS, 2, 8 // E, E, K])
        found = gl.reshape(gl.permute(apart, [1, 3, 0, 2, 4, 5]), [ROWS, K])
    return found


@jit
def columns_of_product(value, V: tl.constexpr, WARPS: tl.constexpr, TURNED: tl.constexpr):
    """Return [rows, N] with its columns in the order of the fold's product."""
    ROWS: tl.constexpr = value.shape[0]
    N: tl.constexpr = value.shape[1]
    if TURNED:
        apart = gl.reshape(value, [ROWS, N // (4 * V), 4, V // 2, 2])
        ordered = gl.permute(apart, [0, 1, 3, 2, 4])
    else:
        apart = gl.reshape(value, [ROWS, N // (4 * V * WARPS), 4 * WARPS, 2, V // 2])
        ordered = gl.permute(apart, [0, 1, 4, 2, 3])
    return gl.reshape(ordered, [ROWS, N])


@jit
def columns_of_memory(value, V: tl.constexpr, WARPS: tl.constexpr, TURNED: tl.constexpr):
    """Return [rows, columns] of the fold's product with its columns in the order of N."""
    ROWS: tl.constexpr = value.shape[0]
    N: tl.constexpr = value.shape[1]
    if TURNED:
        apart = gl.reshape(value, [ROWS, N // (4 * V), V // 2, 4, 2])
        ordered = gl.permute(apart, [0, 1, 3, 2, 4])
    else:
        apart = gl.reshape(value, [ROWS, N // (4 * V * WARPS), V // 2, 4 * WARPS, 2])
        ordered = gl.permute(apart, [0, 1, 3, 4, 2])
    return gl.reshape(ordered, [ROWS, N])


@jit
def turned(b, V: tl.constexpr):
    """Return B [history, N], 16 bits in a `c_layout`, as the fold's product wants it.

    Who holds a row of 8 x 8 elements gets a column. By name they are still the row's until they are
    renamed: j = g and n = (i, t, r, e), where they are j = (t, e) and n = (i, g / 2, r, g % 2).
    """
    W: tl.constexpr = b.shape[0]
    N: tl.constexpr = b.shape[1]
    found = b
    if not INTERPRETED:
        apart = gl.reshape(turned_blocks(b), [W // 8, 4, 2, N // (4 * V), 4, V // 2, 2])
        found = gl.reshape(gl.permute(apart, [0, 4, 6, 3, 1, 5, 2]), [W, N])
    return found


@jit
def by_p(x, WARPS: tl.constexpr, PAIRED: tl.constexpr):
    """Return x [tokens or history, rows of P], in an `out_layout`, in an `x_layout`."""
    TO: tl.constexpr = x_layout(x.shape[0], x.shape[1], WARPS, WARPS, PAIRED)
    return gl.convert_layout(_turned_over(x, WARPS, PAIRED, True), TO)


@jit
def by_token(y, WARPS: tl.constexpr, PAIRED: tl.constexpr):
    """Return y [tokens, rows of P], in an `x_layout`, in an `out_layout`."""
    TO: tl.constexpr = out_layout(y.shape[0], y.shape[1], WARPS)
    return gl.convert_layout(_turned_over(y, WARPS, PAIRED, False), TO)


@jit
def _turned_over(x, WARPS: tl.constexpr, PAIRED: tl.constexpr, BY_TOKEN: tl.constexpr):
    """Return 16-bit x turned by an instruction; what is wider as it is.

    As in `turned` the names follow: of j = (i, g) and p = (q, f, e), with two e where PAIRED and
    else one, the 8 g and the 8 (q, e) change places.
    """
    J: tl.constexpr = x.shape[0]
    P: tl.constexpr = x.shape[1]
    found = x
    if x.dtype.primitive_bitwidth == 16 and not INTERPRETED:
        E: tl.constexpr = in_turn(PAIRED)
        OWN: tl.constexpr = P // (8 * WARPS)
        AS_TAKEN: tl.constexpr = turned_layout(J, P, WARPS, PAIRED, BY_TOKEN)
        found = turned_blocks(gl.convert_layout(x, AS_TAKEN, assert_trivial=True))
        apart = gl.reshape(found, [J // 8, 4, 2 // E, E, WARPS, 4, 2 // E, OWN, E])
        found = gl.reshape(gl.permute(apart, [0, 5, 6, 8, 4, 1, 2, 7, 3]), [J, P])
    return found


@jit
def columns_from(value, FIRST: tl.constexpr, COLUMNS: tl.constexpr):
    """Return COLUMNS columns of [rows, N] from FIRST on, a multiple of COLUMNS."""
    HALF: tl.constexpr = value.shape[1] // 2
    if value.shape[1] == COLUMNS:
        found = value
    else:
        apart = gl.permute(gl.reshape(value, [value.shape[0], 2, HALF]), [0, 2, 1])
        left, right = gl.split(apart)
        if FIRST < HALF:
            found = columns_from(left, FIRST, COLUMNS)
        else:
            found = columns_from(right, FIRST - HALF, COLUMNS)
    return found


@jit
def padded_rows(value, ROWS: tl.constexpr):
    """Return [tokens, P] with zeros after the tokens: ROWS in all, as many or twice as many."""
    if value.shape[0] == ROWS:
        padded = value
    else:
        both = gl.permute(gl.join(value, gl.zeros_like(value)), [2, 0, 1])
        padded = gl.reshape(both, [ROWS, value.shape[1]])
    return padded
