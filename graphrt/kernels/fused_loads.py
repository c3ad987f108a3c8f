# SPDX-License-Identifier: Apache-2.0
"""What a program of the fused kernel asks for besides the state: the history, and the new tokens.

What comes from L2 is asked for before what comes from memory: a warp's loads seem to return in the
order of asking. With the state first nothing could be worked on while it came, and from 64 rows on
a launch took up to a quarter longer (docs/performance.md).
"""

from __future__ import annotations

import triton.language as tl

from graphrt.kernels.fragments import c_layout, loaded_x_layout, of_one_head_layout, out_layout
from graphrt.kernels.gluon import gl, jit
from graphrt.kernels.row_cursors import ring_row


@jit
def ask_for_history(
    # of this slot, and head or group
    x_ring_ptr, b_ring_ptr, dt_ring_ptr, first_row, ring_start, held,
    P: tl.constexpr, N: tl.constexpr, RING_ROWS: tl.constexpr,
    BLOCK_W: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, V: tl.constexpr,
    WARPS: tl.constexpr, PAIRED: tl.constexpr,
):  # fmt: skip
    """Return x [BLOCK_W, BLOCK_P], B [BLOCK_W, BLOCK_N] and dt [BLOCK_W], 0 after ``held``.

    x: in a `loaded_x_layout`.
    """
    PAST: tl.constexpr = of_one_head_layout(WARPS)
    past = gl.arange(0, BLOCK_W, layout=PAST)
    dt = gl.load(dt_ring_ptr + ring_row(ring_start + past, RING_ROWS), mask=past < held, other=0.0)
    B: tl.constexpr = c_layout(BLOCK_W, BLOCK_N, V, WARPS)
    past = gl.arange(0, BLOCK_W, layout=gl.SliceLayout(1, B))
    n = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, B))
    b = gl.load(
        b_ring_ptr + ring_row(ring_start + past, RING_ROWS)[:, None] * N + n[None, :],
        mask=(past < held)[:, None] & (n < N)[None, :],
        other=0.0,
    )
    X: tl.constexpr = loaded_x_layout(BLOCK_W, BLOCK_P, WARPS, PAIRED)
    past = gl.arange(0, BLOCK_W, layout=gl.SliceLayout(1, X))
    p = first_row + gl.arange(0, BLOCK_P, layout=gl.SliceLayout(0, X))
    x = gl.load(
        x_ring_ptr + ring_row(ring_start + past, RING_ROWS)[:, None] * P + p[None, :],
        mask=(past < held)[:, None] & (p < P)[None, :],
        other=0.0,
    )
    return x, b, dt


@jit
def ask_for_tokens(
    # of this row; the first of this head's x, this group's B and this head's z
    x_ptr, b_ptr, stride_token, z_ptr, stride_z_token, stride_z_dim, first_row, live,
    P: tl.constexpr, N: tl.constexpr, G: tl.constexpr, T: tl.constexpr, HAS_Z: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, V: tl.constexpr,
    WARPS: tl.constexpr, PAIRED: tl.constexpr, UNMASKED: tl.constexpr,
):  # fmt: skip
    """Return C and B [BLOCK_T, BLOCK_N]; x and, where y will be, x and z [BLOCK_T, BLOCK_P].

    The first x in a `loaded_x_layout`. 0 after the tokens, and where not ``live``; z is 0 without
    HAS_Z. UNMASKED: C and B are the last token's again there, or what lies in memory: one token's
    sums want it (`graphrt.kernels.one_token`), and masks cost a launch of few rows of P 1 to 2 %.
    """
    C: tl.constexpr = c_layout(BLOCK_T, BLOCK_N, V, WARPS)
    token = gl.arange(0, BLOCK_T, layout=gl.SliceLayout(1, C))
    n = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, C))
    if UNMASKED:  # of these rows nothing is stored, and their columns meet a gain of 0
        token = gl.minimum(token, T - 1)
        mask = (n < N)[None, :]
    else:
        mask = ((token < T) & live)[:, None] & (n < N)[None, :]
    b_ptrs = b_ptr + token[:, None] * stride_token + n[None, :]
    c = gl.load(b_ptrs + G * N, mask=mask, other=0.0)
    b = gl.load(b_ptrs, mask=mask, other=0.0)
    X: tl.constexpr = loaded_x_layout(BLOCK_T, BLOCK_P, WARPS, PAIRED)
    Y: tl.constexpr = out_layout(BLOCK_T, BLOCK_P, WARPS)
    x = _ask_for_x(x_ptr, stride_token, first_row, live, P, T, BLOCK_T, BLOCK_P, X)
    x_of_y = x
    if not PAIRED:
        x_of_y = _ask_for_x(x_ptr, stride_token, first_row, live, P, T, BLOCK_T, BLOCK_P, Y)
    z = 0.0
    if HAS_Z:
        z = ask_for_z(
            z_ptr, stride_z_token, stride_z_dim, first_row, live,
            P, T, BLOCK_T, BLOCK_P, WARPS,
        )  # fmt: skip
    return c, b, x, x_of_y, z


@jit
def _ask_for_x(
    x_ptr, stride_token, first_row, live,
    P: tl.constexpr, T: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_P: tl.constexpr,
    LAYOUT: tl.constexpr,
):  # fmt: skip
    token = gl.arange(0, BLOCK_T, layout=gl.SliceLayout(1, LAYOUT))
    p = first_row + gl.arange(0, BLOCK_P, layout=gl.SliceLayout(0, LAYOUT))
    mask = ((token < T) & live)[:, None] & (p < P)[None, :]
    return gl.load(x_ptr + token[:, None] * stride_token + p[None, :], mask=mask, other=0.0)


@jit
def ask_for_z(
    z_ptr, stride_token, stride_dim, first_row, live,
    P: tl.constexpr, T: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_P: tl.constexpr,
    WARPS: tl.constexpr,
):  # fmt: skip
    """Return z [BLOCK_T, BLOCK_P] of this row and head, where y will be; 0 where not ``live``."""
    Y: tl.constexpr = out_layout(BLOCK_T, BLOCK_P, WARPS)
    token = gl.arange(0, BLOCK_T, layout=gl.SliceLayout(1, Y))
    p = first_row + gl.arange(0, BLOCK_P, layout=gl.SliceLayout(0, Y))
    z_ptrs = z_ptr + token[:, None] * stride_token + p[None, :] * stride_dim
    return gl.load(z_ptrs, mask=((token < T) & live)[:, None] & (p < P)[None, :], other=0.0)
