# SPDX-License-Identifier: Apache-2.0
"""The causal matrices of a program's heads, and how precompute hands them to the state update.

    causal[t, j] = (C_t . B_j) * gain[t, j]        over history, then new tokens; 0 for j after t

The products are the same for all heads of a group. Their rows are tokens t. Which of their columns
is which j is open as long as B agrees, so a thread's columns lie together in memory: (t, i, e)
there, where a product numbers them (i, t, e).

The matrices of a launch are contiguous, rows x heads x planes x T x (W' + T') elements with the
launch's own T. So every sector of 32 bytes is written whole, and offsets are known when the kernels
are compiled.
"""

from __future__ import annotations

import triton.language as tl

from graphrt.kernels.gluon import gl, jit
from graphrt.kernels.token_rows import of_tokens, products_with_b


@jit
def causal_products(
    c, b, zero, LAYOUT: tl.constexpr, BLOCK_T: tl.constexpr, V: tl.constexpr,
    WARPS: tl.constexpr,
):  # fmt: skip
    """Return C_t . B_j of every token t and b's tokens j, [BLOCK_T, b's tokens].

    b: as `fragments.columns_layout` has it. zero: [16, 1], 0. LAYOUT: of the matrices.
    """
    COLUMNS: tl.constexpr = b.shape[0]
    N: tl.constexpr = b.shape[1]
    apart = gl.permute(gl.reshape(b, [4, COLUMNS // 8, 2, N]), [1, 0, 2, 3])
    products = products_with_b(c, gl.reshape(apart, [COLUMNS, N]), zero, V, WARPS)
    apart = gl.reshape(of_tokens(products, BLOCK_T), [BLOCK_T, COLUMNS // 8, 4, 2])
    products = gl.reshape(gl.permute(apart, [0, 2, 1, 3]), [BLOCK_T, COLUMNS])
    return gl.convert_layout(products, gl.SliceLayout(0, LAYOUT), assert_trivial=True)


@jit
def at_tokens(value, LAYOUT: tl.constexpr):
    """Return [heads, tokens] for every column of the matrices."""
    return gl.convert_layout(value, gl.SliceLayout(2, LAYOUT))[:, :, None]


@jit
def at_columns(value, LAYOUT: tl.constexpr):
    """Return [heads, columns] for every token of the matrices."""
    return gl.convert_layout(value, gl.SliceLayout(1, LAYOUT))[:, None, :]


@jit
def no_later_than(value, LAYOUT: tl.constexpr):
    """Return [heads, tokens t, new tokens j] with 0 where j is after t."""
    TOKENS: tl.constexpr = value.shape[1]
    t = gl.arange(0, TOKENS, layout=gl.SliceLayout(1, gl.SliceLayout(0, LAYOUT)))[:, None]
    j = gl.arange(0, TOKENS, layout=gl.SliceLayout(0, gl.SliceLayout(0, LAYOUT)))[None, :]
    return gl.where((j <= t)[None, :, :], value, 0.0)


@jit
def store_matrices(
    # of this row
    causal_ptr,
    # the program's heads, and where those of its group end
    first_head,
    end_head,
    # [tokens, columns] and [heads, tokens, columns]
    products,
    gain,
    # constants
    FIRST: tl.constexpr,
    COLUMNS: tl.constexpr,
    T: tl.constexpr,
    PLANES: tl.constexpr,
    LAYOUT: tl.constexpr,
):
    """Store columns FIRST and on, of COLUMNS: one fp32 plane, or a 16-bit one and what it left."""
    OF_HEAD: tl.constexpr = gl.SliceLayout(1, gl.SliceLayout(2, LAYOUT))
    OF_TOKEN: tl.constexpr = gl.SliceLayout(0, gl.SliceLayout(2, LAYOUT))
    OF_COLUMN: tl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, LAYOUT))
    head = (first_head + gl.arange(0, gain.shape[0], layout=OF_HEAD))[:, None][:, :, None]
    token = gl.arange(0, gain.shape[1], layout=OF_TOKEN)[None, :][:, :, None]
    column = gl.arange(0, gain.shape[2], layout=OF_COLUMN)[None, :][:, None, :]
    ptrs = causal_ptr + (head * (PLANES * T) + token) * COLUMNS + (FIRST + column)
    mask = (head < end_head) & (token < T) & (column >= 0)
    causal = products[None, :, :] * gain
    if PLANES == 1:
        gl.store(ptrs, causal, mask=mask)
    else:
        high = causal.to(causal_ptr.dtype.element_ty)
        gl.store(ptrs, high, mask=mask)
        low = causal - high.to(gl.float32)
        gl.store(ptrs + T * COLUMNS, low.to(causal_ptr.dtype.element_ty), mask=mask)
