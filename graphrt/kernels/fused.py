# SPDX-License-Identifier: Apache-2.0
"""fused: precompute and state update in one kernel, where a launch is better off with one.

A program has a tile as the state update's, some rows of P of one head. It makes the causal matrix
of its head itself, in the registers that it is multiplied from: nothing is handed on through memory
and nobody is waited for but conv1d. Tiles of a head, and heads of a group, repeat what precompute
does once for all of them; the tuning table says where that is worth it.

The same products in the same order as precompute and state update, the same bits, though rows of
most of them are tokens (`graphrt.kernels.token_rows`), where those of the state update have tokens
as columns. A fold turns the B that C has met, and loads none.

What lies in L2 is asked for first, the state last (`graphrt.kernels.fused_loads`): the new tokens'
part of the causal matrix, and C in range, are there when the state comes.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from graphrt.config import ChainShape, PdlLinks
from graphrt.kernels.compiled import Compiled
from graphrt.kernels.fragments import of_one_head_layout, vector
from graphrt.kernels.fused_loads import ask_for_history, ask_for_tokens
from graphrt.kernels.fused_tile import fused_tile, tile_constants
from graphrt.kernels.gluon import gl, jit
from graphrt.kernels.one_token import is_by_sums
from graphrt.kernels.pdl import signal_consumer, wait_for_producer
from graphrt.kernels.ptx import by_thread, loads_stay_ahead, zero_after_loads
from graphrt.kernels.row_cursors import (
    FLUSHED,
    HELD,
    RING_START,
    ROW,
    SLOT,
    ask_for_later_line,
    row_cursor,
    row_seed,
)
from graphrt.kernels.state_tile import ask_for_state
from graphrt.kernels.tensors import LayerCache, LayerInputs, LayerWeights, Scratch
from graphrt.kernels.tuning import FusedLaunch
from graphrt.kernels.whole_lines import whole_lines


@whole_lines
@jit(do_not_specialize=["layer"])
def _fused_kernel(
    # pointers
    conv_out_ptr,
    dt_ptr,
    A_ptr,
    dt_bias_ptr,
    state_ptr,
    x_ring_ptr,
    b_ring_ptr,
    dt_ring_ptr,
    D_ptr,
    z_ptr,
    out_ptr,
    row_cursors_ptr,
    # sizes
    layer,
    # strides, in elements
    stride_conv_row,
    stride_conv_token,
    stride_dt_row,
    stride_dt_token,
    stride_dt_head,
    stride_state_slot,
    stride_x_slot,
    stride_b_slot,
    stride_b_group,
    stride_dt_ring_slot,
    stride_z_row,
    stride_z_token,
    stride_z_head,
    stride_z_dim,
    stride_out_row,
    stride_out_token,
    stride_out_head,
    stride_out_dim,
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
    READ_C: tl.constexpr,
    HAS_DT_BIAS: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    WAIT: tl.constexpr,
    SIGNAL: tl.constexpr,
    IN_SHARED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WARPS: tl.constexpr,
):
    # Where draws take registers what is turned costs more than it saves.
    PAIRED: tl.constexpr = not STOCHASTIC
    signal_consumer(SIGNAL)
    P_BLOCKS: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    HEADS_PER_GROUP: tl.constexpr = H // G
    line = gl.program_id(1).to(gl.int64)
    head = gl.program_id(0) // P_BLOCKS
    first_row = gl.program_id(0) % P_BLOCKS * BLOCK_P
    group = head // HEADS_PER_GROUP
    # In registers, where rows are few, it would take 2 % longer at batch 1.
    if IN_SHARED and gl.program_id(0) == 0:
        ask_for_later_line(row_cursors_ptr, line, gl.num_programs(1))
    a = gl.load(A_ptr + head)
    bias = gl.load(dt_bias_ptr + head).to(gl.float32) if HAS_DT_BIAS else 0.0
    skip = gl.load(D_ptr + head).to(gl.float32) if HAS_D else 0.0
    slot = row_cursor(row_cursors_ptr, line, SLOT)
    row = row_cursor(row_cursors_ptr, line, ROW)
    # Up to 2 % less from batch 1 to 4. In shared memory 16 rows take 128 registers, without it 130.
    if BLOCK_P <= 16:
        slot, row = by_thread(slot), by_thread(row)
    slot, row = slot.to(gl.int64), row.to(gl.int64)
    ring_start = row_cursor(row_cursors_ptr, line, RING_START)
    held = row_cursor(row_cursors_ptr, line, HELD)
    flush = row_cursor(row_cursors_ptr, line, FLUSHED) != 0
    seed = row_seed(row_cursors_ptr, line) if STOCHASTIC else 0
    live = slot >= 0

    # All that is loaded, in the order in which it is to arrive.
    OF_HEAD: tl.constexpr = of_one_head_layout(WARPS)
    token = gl.arange(0, BLOCK_T, layout=OF_HEAD)
    mask_token = (token < T) & live
    dt_ptr += row * stride_dt_row + head * stride_dt_head
    raw = gl.load(dt_ptr + token * stride_dt_token, mask=mask_token, other=0.0)
    state_ptr += slot * stride_state_slot + head * (P * N)
    x_ring_ptr += slot * stride_x_slot + head * (RING_ROWS * P)
    b_ring_ptr += slot * stride_b_slot + group * stride_b_group
    dt_ring_ptr += slot * stride_dt_ring_slot + head * RING_ROWS
    conv_out_ptr += row * stride_conv_row
    if HAS_Z:
        z_ptr += row * stride_z_row + head * stride_z_head
    V: tl.constexpr = vector(BLOCK_N, state_ptr.dtype.element_ty.primitive_bitwidth)
    wait_for_producer(WAIT)
    c_new, b_new, x_new, x_of_y, z = ask_for_tokens(
        conv_out_ptr + head * P, conv_out_ptr + H * P + group * N, stride_conv_token,
        z_ptr, stride_z_token, stride_z_dim, first_row, live,
        P, N, G, T, HAS_Z, BLOCK_T, BLOCK_P, BLOCK_N, V, WARPS, PAIRED,
        is_by_sums(state_ptr.dtype.element_ty, T) or (not IN_SHARED and BLOCK_P <= 16),
    )  # fmt: skip
    loads_stay_ahead()
    x_past, b_past, dt_past = ask_for_history(
        x_ring_ptr, b_ring_ptr, dt_ring_ptr, first_row, ring_start, held,
        P, N, RING_ROWS, BLOCK_W, BLOCK_P, BLOCK_N, V, WARPS, PAIRED,
    )  # fmt: skip
    loads_stay_ahead()
    state = ask_for_state(
        state_ptr, first_row, live, P, N, BLOCK_P, BLOCK_N, V, WARPS, IN_SHARED, WARPS, PAIRED
    )
    zero = zero_after_loads()  # what products start from: none is before a load

    out_ptr += row * stride_out_row + head * stride_out_head
    fused_tile(
        state_ptr, x_ring_ptr, b_ring_ptr, dt_ring_ptr, out_ptr, stride_out_token, stride_out_dim,
        head, first_row, live, ring_start, held, flush, seed, layer, a, bias, skip, dt_min, dt_max,
        raw, c_new, b_new, x_new, x_of_y, z, x_past, b_past, dt_past, state, zero,
        P, N, T, HEADS_PER_GROUP, RING_ROWS, PLANES, READ_C, HAS_DT_BIAS, HAS_D, HAS_Z, STOCHASTIC,
        IN_SHARED, BLOCK_P, BLOCK_T, BLOCK_W, BLOCK_N, V, WARPS, PAIRED,
    )  # fmt: skip


def fused(
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
    launch: FusedLaunch,
) -> Compiled:
    """Write ``out`` (rows, T, H, P); append x, B and dt to rings; fold and store on a flush.

    Of the scratch it reads ``conv_out``, only after its wait, and ``row_cursors``; it writes none.
    Padding rows give zeros and touch no cache.
    """
    rows, tokens = out.shape[:2]
    z = inputs.z
    grid = (shape.heads * triton.cdiv(shape.head_dim, launch.block_head_dim), rows)
    constants = tile_constants(
        tokens, z, weights, cache, scratch, shape=shape, window=window, stochastic=stochastic,
        launch=launch,
    )  # fmt: skip
    return _fused_kernel[grid](
        scratch.conv_out,
        inputs.dt,
        weights.A,
        weights.dt_bias,
        cache.state,
        cache.x_ring,
        cache.b_ring,
        cache.dt_ring,
        weights.D,
        z,
        out,
        scratch.row_cursors,
        cache.layer,
        scratch.conv_out.stride(0),
        scratch.conv_out.stride(1),
        *inputs.dt.stride(),
        cache.state.stride(0),
        cache.x_ring.stride(0),
        cache.b_ring.stride(0),
        cache.b_ring.stride(1),
        cache.dt_ring.stride(0),
        *(z.stride() if z is not None else (0, 0, 0, 0)),
        *out.stride(),
        shape.dt_min,
        shape.dt_max,
        WAIT=links.precompute,
        SIGNAL=links.conv1d,
        launch_pdl=links.precompute,
        **constants,
    )
