# SPDX-License-Identifier: Apache-2.0
"""The outputs of a fused kernel's tile: the checkpoint's part, the causal matrix's, and their sum.

Of a product's operands one has 16 rows and the other 8 columns at least. BY_P: the rows are of P
and the columns tokens, as in the state update, so that up to 8 tokens leave nothing empty; y is
turned before it is stored. An fp32 state is half the products then, and a launch takes 2 to 5 %
less from batch 8 to 64. Where a warp has 8 rows of P half of them would be empty (10 % more at
batch 1), and a 16-bit state's registers would have to be moved together: there tokens are the rows.
Both give the same bits. One token of an fp32 state is read out by neither:
`graphrt.kernels.one_token`.
"""

from __future__ import annotations

import triton.language as tl
from triton.runtime.jit import constexpr_function

from graphrt.kernels.fragments import rows_of_p_layout, x_layout
from graphrt.kernels.gluon import gl, jit
from graphrt.kernels.one_token import for_rows, for_tokens, read_out_by_sums
from graphrt.kernels.ptx import exp
from graphrt.kernels.renames import by_p, by_token, rows_of_memory
from graphrt.kernels.token_columns import read_out, x_times_causal
from graphrt.kernels.token_rows import causal_times_x, read_out_by_token, y_of


@constexpr_function
def rows_are_of_p(dtype: tl.dtype, rows: int, warps: int) -> bool:
    """Return BY_P for a state of ``dtype`` of which a program has ``rows`` rows of P."""
    return bool(dtype == tl.float32) and rows >= 16 * warps


@jit
def decay_at(
    decay, undo, OUT: tl.constexpr, WARPS: tl.constexpr, BY_P: tl.constexpr
):  # fmt: skip
    """Return decay times undo, both [tokens], for every row of P of `outputs`."""
    if BY_P:
        OF_COLUMNS: tl.constexpr = gl.SliceLayout(0, rows_of_p_layout(WARPS, WARPS))
        decay = gl.convert_layout(decay, OF_COLUMNS)[None, :]
        decay *= gl.convert_layout(undo, OF_COLUMNS)[None, :]
    else:
        OF_ROWS: tl.constexpr = gl.SliceLayout(1, OUT)
        decay = gl.convert_layout(decay, OF_ROWS)[:, None]
        decay *= gl.convert_layout(undo, OF_ROWS)[:, None]
    return decay


@jit
def checkpoint_part(
    state, c, zero, OUT: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, V: tl.constexpr, WARPS: tl.constexpr,
    IN_SHARED: tl.constexpr, PAIRED: tl.constexpr, BY_P: tl.constexpr, BY_SUMS: tl.constexpr,
):  # fmt: skip
    """Return the state times C, as `outputs` takes it: BY_SUMS one token's, to be broadcast.

    state: as `state_tile.ask_for_state` returns it. c: [BLOCK_T, BLOCK_N]. zero: added to the 0
    that the products start from.
    """
    PRODUCT: tl.constexpr = rows_of_p_layout(WARPS, WARPS)
    if BY_SUMS:
        sums = read_out_by_sums(state, c, BLOCK_P, BLOCK_N, V, WARPS, IN_SHARED, WARPS, PAIRED)
        y = for_rows(sums, PRODUCT, WARPS, PAIRED) if BY_P else for_tokens(sums, OUT)
    elif BY_P:
        start = gl.zeros([BLOCK_P, c.shape[0]], gl.float32, PRODUCT) + zero
        y = read_out(state, c, start, start, BLOCK_P, BLOCK_N, V, WARPS, IN_SHARED, WARPS, PAIRED)
    else:
        rows = read_out_by_token(state, c, zero, BLOCK_P, BLOCK_N, V, WARPS, IN_SHARED, PAIRED)
        y = y_of(rows, OUT, c.shape[0], WARPS, PAIRED)
    return y


@jit
def causal_part(
    causal_past, causal_new, x_past, x_new,
    PLANES: tl.constexpr, WARPS: tl.constexpr, PAIRED: tl.constexpr, BY_P: tl.constexpr,
):  # fmt: skip
    """Return the causal matrix times x, rows and columns a product's.

    x_past, x_new: [history or tokens, rows of P], in an `x_layout`.
    PLANES: as precompute hands the matrix on, in one of fp32, or in one as x and what that left.
    """
    if BY_P:
        PRODUCT: tl.constexpr = rows_of_p_layout(WARPS, WARPS)
        none = gl.zeros([x_new.shape[1], x_new.shape[0]], gl.float32, PRODUCT)
        high_past, high_new = causal_past, causal_new
        if PLANES == 2:
            high_past, high_new = causal_past.to(x_past.dtype), causal_new.to(x_new.dtype)
        low_past = (causal_past - high_past.to(gl.float32)).to(x_past.dtype)
        low_new = (causal_new - high_new.to(gl.float32)).to(x_new.dtype)
        within = x_times_causal(
            x_past, x_new, high_past, high_new, low_past, low_new, none,
            PLANES, WARPS, WARPS, PAIRED,
        )  # fmt: skip
    else:
        within = causal_times_x(causal_past, causal_new, x_past, x_new, PLANES, WARPS, PAIRED)
    return within


@jit
def outputs(
    # parts, and the first's decay as `decay_at` gives it
    checkpoint, within, decay,
    # x in an `x_layout`, and as y is stored; z, and what x skips ahead with
    x_new, x_of_y, z, skip, live,
    DTYPE: tl.constexpr, OUT: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    WARPS: tl.constexpr, PAIRED: tl.constexpr, BY_P: tl.constexpr,
):  # fmt: skip
    """Return y [tokens, rows of P] in the layout ``OUT``, 0 where not ``live``."""
    T: tl.constexpr = x_new.shape[0]
    P: tl.constexpr = x_new.shape[1]
    if BY_P:
        NEW: tl.constexpr = x_layout(T, P, WARPS, WARPS, PAIRED)
        y = rows_of_memory(checkpoint * decay + within, P, WARPS, PAIRED)
        y = gl.convert_layout(gl.permute(y, [1, 0]), NEW, assert_trivial=True)
        if HAS_D:
            y += x_new.to(gl.float32) * skip
        if HAS_Z:
            z = by_p(z, WARPS, PAIRED).to(gl.float32)
            y *= z / (1.0 + exp(-z))
        y = gl.where(live, by_token(y.to(DTYPE), WARPS, PAIRED), 0.0)
    else:
        y = checkpoint * decay
        y += y_of(within, OUT, T, WARPS, PAIRED)
        if HAS_D:
            y += x_of_y.to(gl.float32) * skip
        if HAS_Z:
            z = z.to(gl.float32)
            y *= z / (1.0 + exp(-z))
        y = gl.where(live, y, 0.0).to(DTYPE)
    return y
