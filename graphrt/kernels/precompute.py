# SPDX-License-Identifier: Apache-2.0
"""precompute: everything small that the state update needs, for every (row, head).

dt, the decays, what a fold multiplies by, and the causal matrix over history and new tokens

    causal[t, j] = exp(cum_t - cum_j) * dt_j * (C_t . B_j)

so that the state update's output is two products and no intermediate state. A program handles
several heads of one group, which share their C·B products (`graphrt.kernels.causal`). cum is in
fixed point (`graphrt.kernels.decay`). For a j of the history the exponential is that from t back to
the history's end times that from there to j, which a fold multiplies by too.

All loads are on their way before a product starts: those of the history before the wait, then those
of what conv1d wrote. What dt alone is needed for is written to be done while these come, though
ptxas may start it sooner. Memory has little to do meanwhile, so the first rows' states can be asked
for (`rows_ahead`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from graphrt.config import ChainShape, PdlLinks
from graphrt.kernels.causal import (
    at_columns,
    at_tokens,
    causal_products,
    no_later_than,
    store_matrices,
)
from graphrt.kernels.compiled import NO_CONTRACTION, Compiled
from graphrt.kernels.decay import decay_over, fixed_steps, plus
from graphrt.kernels.fragments import (
    c_layout,
    columns_layout,
    heads_layout,
    matrices_layout,
    vector,
    whole_product_layout,
)
from graphrt.kernels.gluon import gl, jit
from graphrt.kernels.pdl import signal_consumer, wait_for_producer
from graphrt.kernels.products import into_range
from graphrt.kernels.ptx import ask_for_in_l2, exp, loads_stay_ahead
from graphrt.kernels.row_cursors import HELD, RING_START, ROW, SLOT, row_cursor
from graphrt.kernels.tensors import LayerCache, LayerInputs, LayerWeights, Scratch
from graphrt.kernels.tuning import PrecomputeLaunch
from graphrt.kernels.whole_lines import whole_lines
from graphrt.memory import padded_tokens, padded_window

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


@whole_lines
@jit
def _precompute_kernel(
    # pointers
    conv_out_ptr,
    dt_ptr,
    A_ptr,
    dt_bias_ptr,
    b_ring_ptr,
    dt_ring_ptr,
    state_ptr,
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
    stride_state_slot,
    stride_read_row,
    stride_read_group,
    stride_read_token,
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
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WARPS: tl.constexpr,
    ROWS_AHEAD: tl.constexpr,
):
    signal_consumer(SIGNAL)
    HEADS_PER_GROUP: tl.constexpr = H // G
    CHUNKS: tl.constexpr = (HEADS_PER_GROUP + BLOCK_H - 1) // BLOCK_H
    line = gl.program_id(1).to(gl.int64)
    group = gl.program_id(0) // CHUNKS
    chunk = gl.program_id(0) % CHUNKS
    row = row_cursor(row_cursors_ptr, line, ROW).to(gl.int64)
    slot = row_cursor(row_cursors_ptr, line, SLOT).to(gl.int64)
    held = row_cursor(row_cursors_ptr, line, HELD)
    ring_start = row_cursor(row_cursors_ptr, line, RING_START)
    live = slot >= 0
    first_head = group * HEADS_PER_GROUP + chunk * BLOCK_H
    end_head = (group + 1) * HEADS_PER_GROUP
    if ROWS_AHEAD > 0:
        heads = gl.minimum(BLOCK_H, end_head - first_head)
        state_ptr += slot * stride_state_slot + first_head * (P * N)
        _ask_for_states(state_ptr, heads * (P * N), (line < ROWS_AHEAD) & live)

    # The history.
    # As the fused kernel, which has one V for all: sums over N in the same order.
    V: tl.constexpr = vector(BLOCK_N, state_ptr.dtype.element_ty.primitive_bitwidth)
    HISTORY: tl.constexpr = columns_layout(BLOCK_W, BLOCK_N, V, WARPS)
    past = gl.arange(0, BLOCK_W, layout=gl.SliceLayout(1, HISTORY))
    n = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, HISTORY))
    b_ring_ptr += slot * stride_b_slot + group * stride_b_group
    b_past = gl.load(
        b_ring_ptr + ((ring_start + past) % RING_ROWS)[:, None] * N + n[None, :],
        mask=(past < held)[:, None] & (n < N)[None, :],  # held is 0 in padding rows
        other=0.0,
    )  # [BLOCK_W, BLOCK_N]
    PAST: tl.constexpr = heads_layout(BLOCK_H, BLOCK_W, WARPS)
    head = first_head + gl.arange(0, BLOCK_H, layout=gl.SliceLayout(1, PAST))
    is_head = head < end_head
    past = gl.arange(0, BLOCK_W, layout=gl.SliceLayout(0, PAST))
    dt_ring_ptr += slot * stride_dt_ring_slot
    a = gl.load(A_ptr + head, mask=is_head, other=0.0)
    dt_past = gl.load(
        dt_ring_ptr + head[:, None] * RING_ROWS + ((ring_start + past) % RING_ROWS)[None, :],
        mask=is_head[:, None] & (past < held)[None, :],
        other=0.0,
    )  # [BLOCK_H, BLOCK_W]

    # dt of the new tokens, raw. Asked for last: what is done with it comes after the loads.
    NEW: tl.constexpr = heads_layout(BLOCK_H, BLOCK_T, WARPS)
    head_new = first_head + gl.arange(0, BLOCK_H, layout=gl.SliceLayout(1, NEW))
    is_head_new = head_new < end_head
    token = gl.arange(0, BLOCK_T, layout=gl.SliceLayout(0, NEW))
    mask_token = is_head_new[:, None] & ((token < T) & live)[None, :]
    a_new = gl.load(A_ptr + head_new, mask=is_head_new, other=0.0)
    loads_stay_ahead()
    dt_ptr += row * stride_dt_row
    raw = gl.load(
        dt_ptr + head_new[:, None] * stride_dt_head + token[None, :] * stride_dt_token,
        mask=mask_token,
        other=0.0,
    ).to(gl.float32)  # [BLOCK_H, BLOCK_T]
    if HAS_DT_BIAS:
        raw += gl.load(dt_bias_ptr + head_new, mask=is_head_new, other=0.0).to(gl.float32)[:, None]

    # B and C of the new tokens.
    conv_out_ptr += row * stride_conv_row + H * P + group * N
    B: tl.constexpr = columns_layout(BLOCK_T, BLOCK_N, V, WARPS)
    new = gl.arange(0, BLOCK_T, layout=gl.SliceLayout(1, B))
    n = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, B))
    mask_b = ((new < T) & live)[:, None] & (n < N)[None, :]
    b_ptrs = conv_out_ptr + new[:, None] * stride_conv_token + n[None, :]
    C: tl.constexpr = c_layout(BLOCK_T, BLOCK_N, V, WARPS)
    of_c = gl.arange(0, BLOCK_T, layout=gl.SliceLayout(1, C))
    n_of_c = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, C))
    mask_c = ((of_c < T) & live)[:, None] & (n_of_c < N)[None, :]
    conv_out_ptr += G * N
    c_ptrs = conv_out_ptr + of_c[:, None] * stride_conv_token + n_of_c[None, :]
    of_product = gl.arange(0, 16, layout=gl.SliceLayout(1, whole_product_layout(WARPS)))
    first_c_ptrs = conv_out_ptr + of_product * stride_conv_token
    wait_for_producer(WAIT)
    b_new = gl.load(b_ptrs, mask=mask_b, other=0.0)  # [BLOCK_T, BLOCK_N]
    c_new = gl.load(c_ptrs, mask=mask_c, other=0.0)  # [BLOCK_T, BLOCK_N]
    # The products start from 0 * C[t, 0], loaded last: none starts before a load.
    loads_stay_ahead()
    first_c = gl.load(first_c_ptrs, mask=(of_product < T) & live, other=0.0)

    # While they come: dt, the decays, what a fold multiplies by.
    dt_new = gl.minimum(gl.maximum(softplus(raw), dt_min), dt_max)
    dt_new = gl.where(mask_token, dt_new, 0.0)
    token_row = (ring_start + held + token) % RING_ROWS
    gl.store(
        dt_ring_ptr + head_new[:, None] * RING_ROWS + token_row[None, :], dt_new, mask=mask_token
    )
    steps_past = fixed_steps(dt_past, a[:, None])
    total = gl.sum(steps_past, 1)  # over the whole history
    weight = decay_over(total[:, None] - gl.associative_scan(steps_past, 1, plus)) * dt_past
    cum_new = gl.associative_scan(fixed_steps(dt_new, a_new[:, None]), 1, plus)  # after it
    decay = decay_over(gl.convert_layout(total, gl.SliceLayout(1, NEW))[:, None] + cum_new)
    gl.store(
        fold_weight_ptr
        + row * stride_weight_row
        + head[:, None] * stride_weight_head
        + past[None, :],
        weight,
        mask=is_head[:, None],
    )
    gl.store(
        fold_decay_ptr + row * stride_fold_row + head,
        gl.where(live, decay_over(total), 0.0),
        mask=is_head,
    )
    OF_PAST: tl.constexpr = matrices_layout(BLOCK_H, BLOCK_T, BLOCK_W, WARPS)
    OF_NEW: tl.constexpr = matrices_layout(BLOCK_H, BLOCK_T, BLOCK_T, WARPS)
    gain_past = at_tokens(decay_over(cum_new), OF_PAST) * at_columns(weight, OF_PAST)
    gain_new = decay_over(at_tokens(cum_new, OF_NEW) - at_columns(cum_new, OF_NEW))
    gain_new = no_later_than(gain_new * at_columns(dt_new, OF_NEW), OF_NEW)

    # What needs them.
    zero = 0.0 * first_c.to(gl.float32)[:, None]
    products_past = causal_products(c_new, b_past, zero, OF_PAST, BLOCK_T, V, WARPS)
    products_new = causal_products(c_new, b_new, zero, OF_NEW, BLOCK_T, V, WARPS)
    read_c, undo = into_range(c_new, read_c_ptr.dtype.element_ty, C)
    undo = gl.convert_layout(undo, gl.SliceLayout(0, NEW))
    gl.store(
        decay_ptr + row * stride_decay_row + head_new[:, None] * stride_decay_head + token[None, :],
        gl.where(live, decay * undo[None, :], 0.0),
        mask=is_head_new[:, None] & (token < T)[None, :],
    )
    if chunk == 0:  # one program of the group appends its B and hands its C on
        new_row = (ring_start + held + new) % RING_ROWS
        gl.store(b_ring_ptr + new_row[:, None] * N + n[None, :], b_new, mask=mask_b)
        read_c_ptr += row * stride_read_row + group * stride_read_group
        gl.store(
            read_c_ptr + of_c[:, None] * stride_read_token + n_of_c[None, :],
            read_c,
            mask=(of_c < T)[:, None] & (n_of_c < N)[None, :],
        )
    COLUMNS: tl.constexpr = BLOCK_W + BLOCK_T
    causal_ptr += row * (H * PLANES * T * COLUMNS)
    store_matrices(
        causal_ptr, first_head, end_head, products_past, gain_past,
        0, COLUMNS, T, PLANES, OF_PAST,
    )  # fmt: skip
    store_matrices(
        causal_ptr, first_head, end_head, products_new, gain_new,
        BLOCK_W, COLUMNS, T, PLANES, OF_NEW,
    )  # fmt: skip


@jit
def _ask_for_states(state_ptr, elements, wanted):
    if wanted:
        ask_for_in_l2(state_ptr, elements * (state_ptr.dtype.element_ty.primitive_bitwidth // 8))


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
    head_bytes = shape.head_dim * shape.state_dim * cache.state.element_size()
    block_heads = min(launch.block_heads, triton.next_power_of_2(shape.heads_per_group))
    chunks = triton.cdiv(shape.heads_per_group, block_heads)
    return _precompute_kernel[(shape.groups * chunks, rows)](
        scratch.conv_out,
        inputs.dt,
        weights.A,
        weights.dt_bias,
        cache.b_ring,
        cache.dt_ring,
        cache.state,
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
        cache.state.stride(0),
        *scratch.read_c.stride()[:3],
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
        BLOCK_W=padded_window(window),
        BLOCK_N=triton.next_power_of_2(shape.state_dim),
        WARPS=launch.num_warps,
        ROWS_AHEAD=launch.rows_ahead if head_bytes % 16 == 0 else 0,
        num_warps=launch.num_warps,
        launch_pdl=links.precompute,
        **NO_CONTRACTION,
    )
