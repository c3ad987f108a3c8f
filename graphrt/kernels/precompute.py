# SPDX-License-Identifier: Apache-2.0
"""precompute: everything small that the state update needs, for every (row, head).

dt, the decays, what a fold multiplies by, and the causal matrix over history and new tokens

    causal[t, j] = exp(cum_t - cum_j) * dt_j * (C_t . B_j)

so that the state update's output is two products and no intermediate state. A program handles
several heads of one group, which share their C·B products; all that needs dt alone is done before
the wait. cum is kept in fixed point (`graphrt.kernels.decay`).

The matrix is made with its columns j first: a product needs 16 rows and only 8 columns, and so few
tokens t are the rule.
"""

from __future__ import annotations

import triton
import triton.language as tl

from graphrt.config import ChainShape, PdlLinks
from graphrt.kernels.compiled import NO_CONTRACTION, Compiled
from graphrt.kernels.decay import decay_over, fixed_steps, fold_weights
from graphrt.kernels.dot import dot, into_range
from graphrt.kernels.pdl import signal_consumer, wait_for_producer
from graphrt.kernels.ptx import arrived, exp
from graphrt.kernels.row_cursors import HELD, RING_START, ROW, SLOT, row_cursor
from graphrt.kernels.tensors import LayerCache, LayerInputs, LayerWeights, Scratch
from graphrt.kernels.tuning import PrecomputeLaunch
from graphrt.memory import PADDED_TOKENS, padded_tokens, padded_window

_SOFTPLUS_THRESHOLD = tl.constexpr(20.0)


@triton.jit
def softplus(value):
    """Return log(1 + exp(value)) in fp32, which is value itself above the threshold.

    The quotient undoes the rounding of 1 + exp(value), as a log1p does (Goldberg, 1991, theorem 4).
    """
    power = exp(tl.minimum(value, _SOFTPLUS_THRESHOLD))
    plus_one = 1.0 + power
    small = tl.where(plus_one == 1.0, power, tl.log(plus_one) * (power / (plus_one - 1.0)))
    return tl.where(value > _SOFTPLUS_THRESHOLD, value, small)


@triton.jit
def _precompute_kernel(
    # pointers
    conv_out_ptr,
    dt_ptr,
    A_ptr,
    dt_bias_ptr,
    b_ring_ptr,
    dt_ring_ptr,
    read_c_ptr,
    causal_ptr,
    decay_ptr,
    fold_weight_ptr,
    fold_decay_ptr,
    row_cursors_ptr,
    # strides, in elements
    stride_conv_row,
    stride_conv_token,
    stride_dt_row,
    stride_dt_token,
    stride_dt_head,
    stride_b_slot,
    stride_b_group,
    stride_dt_ring_slot,
    stride_read_row,
    stride_read_group,
    stride_read_token,
    stride_causal_row,
    stride_causal_head,
    stride_causal_plane,
    stride_causal_token,
    stride_decay_row,
    stride_decay_head,
    stride_weight_row,
    stride_weight_head,
    stride_fold_row,
    # limits
    dt_min,
    dt_max,
    # constants
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    G: tl.constexpr,
    T: tl.constexpr,
    RING_ROWS: tl.constexpr,
    PLANES: tl.constexpr,
    HAS_DT_BIAS: tl.constexpr,
    WAIT: tl.constexpr,
    SIGNAL: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    signal_consumer(SIGNAL)
    HEADS_PER_GROUP: tl.constexpr = H // G
    CHUNKS: tl.constexpr = (HEADS_PER_GROUP + BLOCK_H - 1) // BLOCK_H
    line = tl.program_id(1).to(tl.int64)
    group = tl.program_id(0) // CHUNKS
    chunk = tl.program_id(0) % CHUNKS
    row = row_cursor(row_cursors_ptr, line, ROW)
    slot = row_cursor(row_cursors_ptr, line, SLOT)
    held = row_cursor(row_cursors_ptr, line, HELD).to(tl.int32)
    ring_start = row_cursor(row_cursors_ptr, line, RING_START).to(tl.int32)
    live = slot >= 0

    in_group = chunk * BLOCK_H + tl.arange(0, BLOCK_H)
    head = group * HEADS_PER_GROUP + in_group
    token = tl.arange(0, BLOCK_T)
    new = tl.arange(0, BLOCK_J)  # the same tokens as columns of the matrix
    past = tl.arange(0, BLOCK_W)
    n = tl.arange(0, BLOCK_N)
    is_head = in_group < HEADS_PER_GROUP
    is_token = (token < T) & live
    is_new = (new < T) & live
    is_past = past < held  # held is 0 in padding rows
    past_row = (ring_start + past) % RING_ROWS
    new_row = (ring_start + held + new) % RING_ROWS

    b_ring_ptrs = b_ring_ptr + slot * stride_b_slot + group * stride_b_group + n[None, :]
    b_past = tl.load(
        b_ring_ptrs + past_row[:, None] * N,
        mask=is_past[:, None] & (n < N)[None, :],
        other=0.0,
    )  # [BLOCK_W, BLOCK_N]
    a = tl.load(A_ptr + head, mask=is_head, other=0.0)[:, None]
    dt_ring_ptrs = dt_ring_ptr + slot * stride_dt_ring_slot + head[:, None] * RING_ROWS
    dt_past = tl.load(
        dt_ring_ptrs + past_row[None, :], mask=is_head[:, None] & is_past[None, :], other=0.0
    )  # [BLOCK_H, BLOCK_W]
    bias = tl.zeros([BLOCK_H], dtype=tl.float32)
    if HAS_DT_BIAS:
        bias = tl.load(dt_bias_ptr + head, mask=is_head, other=0.0).to(tl.float32)
    dt_ptrs = dt_ptr + row * stride_dt_row + head[:, None] * stride_dt_head
    mask_token = is_head[:, None] & is_token[None, :]
    dt_token = _processed_dt(
        dt_ptrs + token[None, :] * stride_dt_token, mask_token, bias, dt_min, dt_max
    )  # [BLOCK_H, BLOCK_T]
    token_row = (ring_start + held + token) % RING_ROWS
    tl.store(dt_ring_ptrs + token_row[None, :], dt_token, mask=mask_token)

    steps_past = fixed_steps(dt_past, a)
    total = tl.sum(steps_past, 1)[:, None]  # over the whole history
    cum_past = tl.cumsum(steps_past, 1)
    cum_token = total + tl.cumsum(fixed_steps(dt_token, a), 1)
    dt_new, cum_new = _as_columns(dt_token, BLOCK_J), _as_columns(cum_token, BLOCK_J)
    weight_ptrs = fold_weight_ptr + row * stride_weight_row + head[:, None] * stride_weight_head
    tl.store(
        weight_ptrs + past[None, :],
        fold_weights(steps_past, dt_past, total, 1),
        mask=is_head[:, None],
    )
    tl.store(
        fold_decay_ptr + row * stride_fold_row + head[:, None],
        tl.where(live, decay_over(total), 0.0),
        mask=is_head[:, None],
    )
    keep_past = is_past[:, None] & is_token[None, :]
    keep_new = (new[:, None] <= token[None, :]) & is_token[None, :]
    gain_past = decay_over(cum_token[:, None, :] - cum_past[:, :, None]) * dt_past[:, :, None]
    gain_past = tl.where(keep_past[None, :, :], gain_past, 0.0)  # [BLOCK_H, BLOCK_W, BLOCK_T]
    gain_new = decay_over(cum_token[:, None, :] - cum_new[:, :, None]) * dt_new[:, :, None]
    gain_new = tl.where(keep_new[None, :, :], gain_new, 0.0)  # [BLOCK_H, BLOCK_J, BLOCK_T]

    gain_past, gain_new = arrived(gain_past), arrived(gain_new)  # not after the wait
    wait_for_producer(WAIT)
    conv_ptrs = conv_out_ptr + row * stride_conv_row + (H * P + group * N + n)[None, :]
    mask_n = (n < N)[None, :]
    mask_b = is_new[:, None] & mask_n
    b_new = tl.load(conv_ptrs + new[:, None] * stride_conv_token, mask=mask_b, other=0.0)
    c_new = tl.load(
        conv_ptrs + G * N + token[:, None] * stride_conv_token,
        mask=is_token[:, None] & mask_n,
        other=0.0,
    )
    b_new, c_new = arrived(b_new), arrived(c_new)
    products_past = dot(b_past, tl.trans(c_new))  # [BLOCK_W, BLOCK_T]
    products_new = dot(b_new, tl.trans(c_new))  # [BLOCK_J, BLOCK_T]
    read_c, undo = into_range(c_new, read_c_ptr.dtype.element_ty)
    tl.store(
        decay_ptr + row * stride_decay_row + head[:, None] * stride_decay_head + token[None, :],
        tl.where(live, decay_over(cum_token) * undo[None, :], 0.0),
        mask=is_head[:, None] & (token < T)[None, :],
    )
    if chunk == 0:  # one program of the group appends its B and hands its C on
        tl.store(b_ring_ptrs + new_row[:, None] * N, b_new, mask=mask_b)
        tl.store(
            read_c_ptr
            + row * stride_read_row
            + group * stride_read_group
            + token[:, None] * stride_read_token
            + n[None, :],
            read_c,
            mask=(token < T)[:, None] & mask_n,
        )

    causal_ptrs = (
        causal_ptr
        + row * stride_causal_row
        + head[:, None, None] * stride_causal_head
        + token[None, None, :] * stride_causal_token
    )
    mask = is_head[:, None, None] & (token < T)[None, None, :]
    _store_planes(
        causal_ptrs + past[None, :, None],
        stride_causal_plane,
        products_past[None, :, :] * gain_past,
        mask,
        PLANES,
    )
    _store_planes(
        causal_ptrs + BLOCK_W + new[None, :, None],
        stride_causal_plane,
        products_new[None, :, :] * gain_new,
        mask,
        PLANES,
    )


@triton.jit
def _processed_dt(ptrs, mask, bias, dt_min, dt_max):
    """Return dt after bias, softplus and limits, 0 where masked: [heads, tokens] fp32."""
    raw = tl.load(ptrs, mask=mask, other=0.0).to(tl.float32) + bias[:, None]
    return tl.where(mask, tl.minimum(tl.maximum(softplus(raw), dt_min), dt_max), 0.0)


@triton.jit
def _as_columns(value, COLUMNS: tl.constexpr):
    """Return (heads, tokens) with zeros after the tokens, as many as ``COLUMNS`` or half of it."""
    if value.shape[1] == COLUMNS:
        columns = value
    else:
        halves = tl.permute(tl.join(value, tl.zeros_like(value)), (0, 2, 1))
        columns = tl.reshape(halves, [value.shape[0], COLUMNS])
    return columns


@triton.jit
def _store_planes(ptrs, stride_plane, causal, mask, PLANES: tl.constexpr):
    """Store fp32 ``causal`` as one plane, or rounded to the planes' dtype and what that left."""
    if PLANES == 1:
        tl.store(ptrs, causal, mask=mask)
    else:
        high = causal.to(ptrs.dtype.element_ty)
        tl.store(ptrs, high, mask=mask)
        low = causal - high.to(tl.float32)
        tl.store(ptrs + stride_plane, low.to(ptrs.dtype.element_ty), mask=mask)


def precompute(
    inputs: LayerInputs,
    weights: LayerWeights,
    cache: LayerCache,
    scratch: Scratch,
    *,
    shape: ChainShape,
    window: int,
    links: PdlLinks,
    launch: PrecomputeLaunch,
) -> Compiled:
    """Write ``read_c``, ``causal``, ``decay`` and a fold's weights; append B and dt to rings.

    Reads conv1d's output only after its wait; dt, A and the history are older and read before.
    Padding rows give zeros and touch no cache.
    """
    rows, tokens = inputs.dt.shape[:2]
    block_heads = min(launch.block_heads, triton.next_power_of_2(shape.heads_per_group))
    chunks = triton.cdiv(shape.heads_per_group, block_heads)
    return _precompute_kernel[(shape.groups * chunks, rows)](
        scratch.conv_out,
        inputs.dt,
        weights.A,
        weights.dt_bias,
        cache.b_ring,
        cache.dt_ring,
        scratch.read_c,
        scratch.causal,
        scratch.decay,
        scratch.fold_weight,
        scratch.fold_decay,
        scratch.row_cursors,
        scratch.conv_out.stride(0),
        scratch.conv_out.stride(1),
        *inputs.dt.stride(),
        cache.b_ring.stride(0),
        cache.b_ring.stride(1),
        cache.dt_ring.stride(0),
        *scratch.read_c.stride()[:3],
        *scratch.causal.stride()[:4],
        *scratch.decay.stride()[:2],
        *scratch.fold_weight.stride()[:2],
        scratch.fold_decay.stride(0),
        shape.dt_min,
        shape.dt_max,
        H=shape.heads,
        P=shape.head_dim,
        N=shape.state_dim,
        G=shape.groups,
        T=tokens,
        RING_ROWS=cache.dt_ring.shape[2],
        PLANES=scratch.causal.shape[2],
        HAS_DT_BIAS=weights.dt_bias is not None,
        WAIT=links.precompute,
        SIGNAL=links.state_update,
        BLOCK_H=block_heads,
        BLOCK_T=padded_tokens(tokens),
        BLOCK_J=PADDED_TOKENS,
        BLOCK_W=padded_window(window),
        BLOCK_N=triton.next_power_of_2(shape.state_dim),
        num_warps=launch.num_warps,
        launch_pdl=links.precompute,
        **NO_CONTRACTION,
    )
