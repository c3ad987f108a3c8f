# SPDX-License-Identifier: Apache-2.0
"""state update: the launch's outputs, and the fold of the history into the checkpoint on a flush.

    y_t = decay_t * (S0 C_t) + sum_j causal[t, j] x_j + D x_t,  times silu(z_t) where z is given
    on a flush: S0 <- exp(cum_h) S0 + sum_j exp(cum_h - cum_j) dt_j x_j B_j^T   over the history

The outputs read S0 as it was, flush or not. They are computed with P first: a product takes 16 rows
or 8 columns, and few tokens are the rule.

A program has one tile, some rows of P of one head, which it reads once and stores at most once.
What a thread loads is what it multiplies (`graphrt.kernels.fragments`), so nothing changes hands.
All that a program loads on either side of its wait is on its way before the first of it is used:
state and history before, what precompute and conv1d wrote after.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from graphrt.config import ChainShape, PdlLinks
from graphrt.kernels.compiled import NO_CONTRACTION, Compiled
from graphrt.kernels.fold import b_of_history, fold
from graphrt.kernels.fragments import (
    c_layout,
    causal_layout,
    most_warps,
    product_layout,
    vector,
    x_layout,
)
from graphrt.kernels.gluon import gl, jit
from graphrt.kernels.one_token import for_rows, is_by_sums, read_out_by_sums
from graphrt.kernels.pdl import signal_consumer, wait_for_producer
from graphrt.kernels.ptx import exp, loads_stay_ahead
from graphrt.kernels.renames import rows_of_memory, x_rows
from graphrt.kernels.row_cursors import (
    FLUSHED,
    HELD,
    RING_START,
    ROW,
    SLOT,
    row_cursor,
    row_seed,
)
from graphrt.kernels.state_tile import ask_for_state, wait_for_state, waits_in_shared
from graphrt.kernels.tensors import LayerCache, LayerInputs, LayerWeights, Scratch
from graphrt.kernels.token_columns import read_out, x_times_causal
from graphrt.kernels.tuning import StateUpdateLaunch
from graphrt.kernels.whole_lines import whole_lines
from graphrt.memory import padded_tokens, padded_window


@whole_lines
@jit(do_not_specialize=["layer"])
def _state_update_kernel(
    # pointers
    conv_out_ptr,
    read_c_ptr,
    causal_ptr,
    decay_ptr,
    fold_weight_ptr,
    fold_decay_ptr,
    state_ptr,
    x_ring_ptr,
    b_ring_ptr,
    D_ptr,
    z_ptr,
    out_ptr,
    row_cursors_ptr,
    # sizes
    layer,
    # strides, in elements
    stride_conv_row,
    stride_conv_token,
    stride_read_row,
    stride_read_group,
    stride_read_token,
    stride_decay_row,
    stride_decay_head,
    stride_weight_row,
    stride_weight_head,
    stride_fold_row,
    stride_state_slot,
    stride_x_slot,
    stride_b_slot,
    stride_b_group,
    stride_z_row,
    stride_z_token,
    stride_z_head,
    stride_z_dim,
    stride_out_row,
    stride_out_token,
    stride_out_head,
    stride_out_dim,
    # constants
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    G: tl.constexpr,
    T: tl.constexpr,
    RING_ROWS: tl.constexpr,
    PLANES: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    WAIT: tl.constexpr,
    SIGNAL: tl.constexpr,
    IN_SHARED: tl.constexpr,
    EARLY_B: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WARPS: tl.constexpr,
):
    signal_consumer(SIGNAL)
    line = gl.program_id(1).to(gl.int64)
    P_BLOCKS: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    head = gl.program_id(0) // P_BLOCKS
    first_row = gl.program_id(0) % P_BLOCKS * BLOCK_P
    group = head // (H // G)
    row = row_cursor(row_cursors_ptr, line, ROW).to(gl.int64)
    slot = row_cursor(row_cursors_ptr, line, SLOT).to(gl.int64)
    held = row_cursor(row_cursors_ptr, line, HELD)
    ring_start = row_cursor(row_cursors_ptr, line, RING_START)
    flush = row_cursor(row_cursors_ptr, line, FLUSHED) != 0
    seed = row_seed(row_cursors_ptr, line) if STOCHASTIC else 0
    live = slot >= 0
    state_ptr += slot * stride_state_slot + head * (P * N)
    x_ring_ptr += slot * stride_x_slot + head * (RING_ROWS * P)
    b_ring_ptr += slot * stride_b_slot + group * stride_b_group
    fold_weight_ptr += row * stride_weight_row + head * stride_weight_head
    fold_decay_ptr += row * stride_fold_row + head

    V: tl.constexpr = vector(BLOCK_N, state_ptr.dtype.element_ty.primitive_bitwidth)
    PRODUCT: tl.constexpr = product_layout(WARPS)
    state = ask_for_state(state_ptr, first_row, live, P, N, BLOCK_P, BLOCK_N, V, WARPS, IN_SHARED)
    PAST: tl.constexpr = x_layout(BLOCK_W, BLOCK_P, WARPS)
    past = gl.arange(0, BLOCK_W, layout=gl.SliceLayout(1, PAST))
    p = first_row + gl.arange(0, BLOCK_P, layout=gl.SliceLayout(0, PAST))
    x_past = gl.load(
        x_ring_ptr + ((ring_start + past) % RING_ROWS)[:, None] * P + p[None, :],
        mask=(past < held)[:, None] & (p < P)[None, :],  # held is 0 in padding rows
        other=0.0,
    )  # [BLOCK_W, BLOCK_P]
    if EARLY_B:
        folded = gl.where(flush, held, 0)
        b_past = b_of_history(
            b_ring_ptr, ring_start, folded, N, RING_ROWS, BLOCK_W, BLOCK_N, V, WARPS
        )
    if HAS_D:
        skip = gl.load(D_ptr + head).to(gl.float32)

    wait_for_producer(WAIT)
    PLANE: tl.constexpr = T * (BLOCK_W + BLOCK_T)
    causal_ptr += (row * H + head) * (PLANES * PLANE)
    OF_PAST: tl.constexpr = causal_layout(BLOCK_T, BLOCK_W, WARPS)
    OF_NEW: tl.constexpr = causal_layout(BLOCK_T, BLOCK_T, WARPS)
    causal_past = _causal(causal_ptr, BLOCK_W + BLOCK_T, T, OF_PAST, BLOCK_T, BLOCK_W)
    causal_new = _causal(causal_ptr + BLOCK_W, BLOCK_W + BLOCK_T, T, OF_NEW, BLOCK_T, BLOCK_T)
    if PLANES == 2:
        causal_ptr += PLANE
        low_past = _causal(causal_ptr, BLOCK_W + BLOCK_T, T, OF_PAST, BLOCK_T, BLOCK_W)
        low_new = _causal(causal_ptr + BLOCK_W, BLOCK_W + BLOCK_T, T, OF_NEW, BLOCK_T, BLOCK_T)
    NEW: tl.constexpr = x_layout(BLOCK_T, BLOCK_P, WARPS)
    token = gl.arange(0, BLOCK_T, layout=gl.SliceLayout(1, NEW))
    p = first_row + gl.arange(0, BLOCK_P, layout=gl.SliceLayout(0, NEW))
    mask_x = (token < T)[:, None] & (p < P)[None, :]
    conv_out_ptr += row * stride_conv_row + head * P
    x_new = gl.load(
        conv_out_ptr + token[:, None] * stride_conv_token + p[None, :], mask=mask_x, other=0.0
    )  # [BLOCK_T, BLOCK_P]
    if HAS_Z:
        z_ptr += row * stride_z_row + head * stride_z_head
        z = gl.load(
            z_ptr + token[:, None] * stride_z_token + p[None, :] * stride_z_dim,
            mask=mask_x & live,
            other=0.0,
        ).to(gl.float32)
    C: tl.constexpr = c_layout(BLOCK_T, BLOCK_N, V, WARPS)
    of_token = gl.arange(0, BLOCK_T, layout=gl.SliceLayout(1, C))
    BY_SUMS: tl.constexpr = is_by_sums(state_ptr.dtype.element_ty, T)
    if BY_SUMS:  # all rows are the token's
        of_token = gl.minimum(of_token, T - 1)
    n = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, C))
    c_new = gl.load(
        read_c_ptr
        + row * stride_read_row
        + group * stride_read_group
        + of_token[:, None] * stride_read_token
        + n[None, :],
        mask=(of_token < T)[:, None] & (n < N)[None, :],
        other=0.0,
    )  # [BLOCK_T, BLOCK_N]
    if EARLY_B:
        fold_weight = gl.load(fold_weight_ptr + past, mask=(past < held) & flush, other=0.0)
        fold_decay = gl.load(fold_decay_ptr, mask=flush, other=0.0)
    # The products start from 0 * decay, whose load is the last: none starts before a load.
    loads_stay_ahead()
    of_token = gl.arange(0, BLOCK_T, layout=gl.SliceLayout(0, PRODUCT))
    decay_ptr += row * stride_decay_row + head * stride_decay_head
    decay = gl.load(decay_ptr + of_token, mask=of_token < T, other=0.0)[None, :]

    zero = gl.zeros([BLOCK_P, BLOCK_T], gl.float32, PRODUCT)
    wait_for_state(IN_SHARED)
    if BY_SUMS:
        sums = read_out_by_sums(state, c_new, BLOCK_P, BLOCK_N, V, WARPS, IN_SHARED)
        y = for_rows(sums, PRODUCT)
    else:
        y = read_out(state, c_new, zero + 0.0 * decay, zero, BLOCK_P, BLOCK_N, V, WARPS, IN_SHARED)
    if PLANES == 1:
        low_past, low_new = causal_past, causal_new
    y = y * decay + x_times_causal(
        x_past, x_new, causal_past, causal_new, low_past, low_new, zero, PLANES, WARPS
    )
    y = gl.permute(rows_of_memory(y, BLOCK_P), [1, 0])  # [BLOCK_T, BLOCK_P]
    y = gl.convert_layout(y, NEW, assert_trivial=True)
    if HAS_D:
        y += x_new.to(gl.float32) * skip
    if HAS_Z:
        y *= z / (1.0 + exp(-z))
    out_ptr += row * stride_out_row + head * stride_out_head
    gl.store(
        out_ptr + token[:, None] * stride_out_token + p[None, :] * stride_out_dim,
        y.to(out_ptr.dtype.element_ty),
        mask=mask_x,
    )
    new_row = (ring_start + held + token) % RING_ROWS
    gl.store(x_ring_ptr + new_row[:, None] * P + p[None, :], x_new, mask=mask_x & live)

    if flush:
        if not EARLY_B:
            fold_weight = gl.load(fold_weight_ptr + past)
            fold_decay = gl.load(fold_decay_ptr)
            b_past = b_of_history(
                b_ring_ptr, ring_start, held, N, RING_ROWS, BLOCK_W, BLOCK_N, V, WARPS
            )
        fold(
            state_ptr,
            state,
            first_row,
            x_rows(x_past.to(gl.float32) * fold_weight[:, None], WARPS),
            b_past,
            fold_decay,
            seed,
            head * (P * ((N + 7) // 8)),
            layer,
            P,
            N,
            STOCHASTIC,
            BLOCK_P,
            BLOCK_N,
            V,
            WARPS,
            IN_SHARED,
            False,
        )


@jit
def _causal(
    ptr,
    STRIDE: tl.constexpr,
    T: tl.constexpr,
    LAYOUT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Return some columns of a plane of the causal matrix, [BLOCK_T, COLUMNS]."""
    token = gl.arange(0, BLOCK_T, layout=gl.SliceLayout(1, LAYOUT))
    column = gl.arange(0, COLUMNS, layout=gl.SliceLayout(0, LAYOUT))
    return gl.load(
        ptr + token[:, None] * STRIDE + column[None, :],
        mask=(token < T)[:, None],
        other=0.0,
    )


def state_update(
    inputs: LayerInputs,
    weights: LayerWeights,
    cache: LayerCache,
    scratch: Scratch,
    out: Tensor,
    *,
    shape: ChainShape,
    window: int,
    stochastic: bool,
    links: PdlLinks,
    launch: StateUpdateLaunch,
) -> Compiled:
    """Write ``out`` (rows, T, H, P); append x to its ring; fold and store the state on a flush.

    State and history, older than this launch, are read before the wait; x, C and the scratch only
    after it. Padding rows give zeros and touch no cache.
    """
    rows, tokens = out.shape[:2]
    z = inputs.z
    block = launch.block_head_dim
    element = cache.state.element_size()
    in_shared = waits_in_shared(launch, shape.state_dim, element)
    most = most_warps(triton.next_power_of_2(shape.state_dim), 8 * element, tokens)
    warps = min(launch.num_warps, most) if in_shared else 1
    grid = (shape.heads * triton.cdiv(shape.head_dim, block), rows)
    return _state_update_kernel[grid](
        scratch.conv_out,
        scratch.read_c,
        scratch.causal,
        scratch.decay,
        scratch.fold_weight,
        scratch.fold_decay,
        cache.state,
        cache.x_ring,
        cache.b_ring,
        weights.D,
        z,
        out,
        scratch.row_cursors,
        cache.layer,
        scratch.conv_out.stride(0),
        scratch.conv_out.stride(1),
        *scratch.read_c.stride()[:3],
        *scratch.decay.stride()[:2],
        *scratch.fold_weight.stride()[:2],
        scratch.fold_decay.stride(0),
        cache.state.stride(0),
        cache.x_ring.stride(0),
        cache.b_ring.stride(0),
        cache.b_ring.stride(1),
        *(z.stride() if z is not None else (0, 0, 0, 0)),
        *out.stride(),
        H=shape.heads,
        P=shape.head_dim,
        N=shape.state_dim,
        G=shape.groups,
        T=tokens,
        RING_ROWS=cache.dt_ring.shape[2],
        PLANES=scratch.causal.shape[2],
        HAS_D=weights.D is not None,
        HAS_Z=z is not None,
        STOCHASTIC=stochastic,
        WAIT=links.state_update,
        SIGNAL=links.conv1d,
        IN_SHARED=in_shared,
        EARLY_B=launch.early_b,
        BLOCK_P=block,
        BLOCK_T=padded_tokens(tokens),
        BLOCK_W=padded_window(window),
        BLOCK_N=triton.next_power_of_2(shape.state_dim),
        WARPS=warps,
        num_warps=warps,
        maxnreg=launch.max_registers,
        launch_pdl=links.state_update,
        **NO_CONTRACTION,
    )
