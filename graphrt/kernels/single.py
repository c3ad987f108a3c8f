# SPDX-License-Identifier: Apache-2.0
"""single: a layer in one kernel, conv1d and what the fused kernel does.

A program has some rows of P of one head, as one of the fused kernel, and convolves for itself what
it needs: x of its rows, B and C of its group. Other programs of a group repeat B and C, and one of
them appends these to the rings. Nothing is handed on through memory, and in a step of many layers
a hand-over between kernels is what a small launch pays for most.

The same products in the same order as conv1d, precompute and state update, the same bits.

Linked, it is the dependent of whatever kernel comes before it. The first layer of a launch, behind
advance, reads weights alone before its wait. One *behind* another layer of the launch asks for
cursors and caches there too: the layer before signalled after its own wait, so advance has
completed, and of the caches it writes its own (`graphrt.kernels.pdl`).
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from graphrt.config import ChainShape, PdlLinks
from graphrt.kernels.compiled import Compiled
from graphrt.kernels.convolution import (
    append_inputs,
    ask_for_new_inputs,
    ask_for_past_inputs,
    ask_for_shifted_inputs,
    by_token,
    convolved,
    shifted,
    taps_together,
)
from graphrt.kernels.fragments import (
    c_layout,
    of_one_head_layout,
    out_layout,
    taps_layout,
    taps_of_out_layout,
    vector,
    x_layout,
)
from graphrt.kernels.fused_loads import ask_for_history, ask_for_z
from graphrt.kernels.fused_tile import fused_tile, tile_constants
from graphrt.kernels.gluon import gl, jit
from graphrt.kernels.one_token import is_by_sums
from graphrt.kernels.pdl import signal_consumer, wait_for_producer
from graphrt.kernels.ptx import loads_stay_ahead, zero_after_loads
from graphrt.kernels.renames import columns_from
from graphrt.kernels.row_cursors import (
    CONV_POS,
    FLUSHED,
    HELD,
    RING_START,
    ROW,
    SLOT,
    ring_row,
    row_cursor,
    row_seed,
)
from graphrt.kernels.state_tile import ask_for_state
from graphrt.kernels.tensors import LayerCache, LayerInputs, LayerWeights, Scratch
from graphrt.kernels.tuning import FusedLaunch
from graphrt.kernels.whole_lines import whole_lines


def _name(specialization: Any) -> str:
    return "_single_next_kernel" if specialization.constants.get("BEHIND") else "_single_kernel"


@whole_lines
@jit(do_not_specialize=["layer"], repr=_name)
def _single_kernel(
    # pointers
    xbc_ptr,
    conv_weight_ptr,
    conv_bias_ptr,
    conv_ring_ptr,
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
    stride_xbc_row,
    stride_xbc_token,
    stride_xbc_channel,
    stride_weight_channel: tl.constexpr,  # so that a channel's taps are known to lie together
    stride_weight_tap: tl.constexpr,
    stride_conv_slot,
    stride_conv_row,
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
    WIDTH: tl.constexpr,
    CONV_ROWS: tl.constexpr,
    RING_ROWS: tl.constexpr,
    PLANES: tl.constexpr,
    READ_C: tl.constexpr,
    HAS_CONV_BIAS: tl.constexpr,
    HAS_DT_BIAS: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    WAIT: tl.constexpr,
    SIGNAL: tl.constexpr,
    BEHIND: tl.constexpr,
    IN_SHARED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WARPS: tl.constexpr,
):
    signal_consumer(SIGNAL and not WAIT)
    P_BLOCKS: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    HEADS_PER_GROUP: tl.constexpr = H // G
    line = gl.program_id(1).to(gl.int64)
    head = gl.program_id(0) // P_BLOCKS
    first_row = gl.program_id(0) % P_BLOCKS * BLOCK_P
    group = head // HEADS_PER_GROUP
    a = gl.load(A_ptr + head)
    bias = gl.load(dt_bias_ptr + head).to(gl.float32) if HAS_DT_BIAS else 0.0
    skip = gl.load(D_ptr + head).to(gl.float32) if HAS_D else 0.0

    # The channels of B then C, shared by all threads, and those of x where y will be.
    OF_BC: tl.constexpr = taps_layout(2 * BLOCK_N, WIDTH, WARPS)
    both = gl.arange(0, 2 * BLOCK_N, layout=gl.SliceLayout(1, OF_BC))
    n = both % BLOCK_N
    of_bc = H * P + group * N + both // BLOCK_N * (G * N) + n
    bc_bias, bc_taps = taps_together(
        conv_weight_ptr, stride_weight_channel, stride_weight_tap, conv_bias_ptr, of_bc, n < N,
        WIDTH, HAS_CONV_BIAS, OF_BC, gl.SliceLayout(1, OF_BC),
    )  # fmt: skip
    OUT: tl.constexpr = out_layout(BLOCK_T, BLOCK_P, WARPS)
    OF_X: tl.constexpr = taps_of_out_layout(BLOCK_P, WIDTH, WARPS)
    p = first_row + gl.arange(0, BLOCK_P, layout=gl.SliceLayout(1, OF_X))
    x_bias, x_taps = taps_together(
        conv_weight_ptr, stride_weight_channel, stride_weight_tap, conv_bias_ptr, head * P + p,
        p < P, WIDTH, HAS_CONV_BIAS, OF_X, gl.SliceLayout(0, OUT),
    )  # fmt: skip
    p = first_row + gl.arange(0, BLOCK_P, layout=gl.SliceLayout(0, OUT))
    of_x = head * P + p
    if not BEHIND:
        wait_for_producer(WAIT)
        signal_consumer(SIGNAL and WAIT)

    slot = row_cursor(row_cursors_ptr, line, SLOT).to(gl.int64)
    row = row_cursor(row_cursors_ptr, line, ROW).to(gl.int64)
    conv_pos = row_cursor(row_cursors_ptr, line, CONV_POS)
    ring_start = row_cursor(row_cursors_ptr, line, RING_START)
    held = row_cursor(row_cursors_ptr, line, HELD)
    flush = row_cursor(row_cursors_ptr, line, FLUSHED) != 0
    seed = row_seed(row_cursors_ptr, line) if STOCHASTIC else 0
    live = slot >= 0
    mask_n, mask_p = (n < N) & live, (p < P) & live
    state_ptr += slot * stride_state_slot + head * (P * N)
    x_ring_ptr += slot * stride_x_slot + head * (RING_ROWS * P)
    b_ring_ptr += slot * stride_b_slot + group * stride_b_group
    dt_ring_ptr += slot * stride_dt_ring_slot + head * RING_ROWS
    conv_ring_ptr += slot * stride_conv_slot
    xbc_ptr += row * stride_xbc_row
    dt_ptr += row * stride_dt_row + head * stride_dt_head
    out_ptr += row * stride_out_row + head * stride_out_head
    if HAS_Z:
        z_ptr += row * stride_z_row + head * stride_z_head
    V: tl.constexpr = vector(BLOCK_N, state_ptr.dtype.element_ty.primitive_bitwidth)

    # All that is loaded, in the order in which it is to arrive: what lies in L2, the history, the
    # state. Behind another layer, all but the inputs is there before the wait.
    of_y = gl.arange(0, BLOCK_T, layout=gl.SliceLayout(1, OUT))
    mask_y = (of_y < T)[:, None] & mask_p[None, :]
    if BEHIND:
        bc_old, x_old, x_past, b_past, dt_past, state = _ask_for_caches(
            conv_ring_ptr, stride_conv_row, conv_pos, of_bc, mask_n, of_x, of_y, mask_y,
            state_ptr, x_ring_ptr, b_ring_ptr, dt_ring_ptr, first_row, ring_start, held, live,
            P, N, WIDTH, CONV_ROWS, RING_ROWS, BLOCK_W, BLOCK_P, BLOCK_N, V, WARPS,
            IN_SHARED,
        )  # fmt: skip
        wait_for_producer(WAIT)
        signal_consumer(SIGNAL and WAIT)
    token = gl.arange(0, BLOCK_T, layout=of_one_head_layout(WARPS))
    raw = gl.load(dt_ptr + token * stride_dt_token, mask=(token < T) & live, other=0.0)
    bc_new = ask_for_new_inputs(xbc_ptr + of_bc * stride_xbc_channel, stride_xbc_token, mask_n, T)
    x_of_taps = ask_for_shifted_inputs(
        xbc_ptr + of_x * stride_xbc_channel, stride_xbc_token, 0, of_y, mask_y, WIDTH, T, True
    )
    z = 0.0
    if HAS_Z:
        z = ask_for_z(
            z_ptr, stride_z_token, stride_z_dim, first_row, live,
            P, T, BLOCK_T, BLOCK_P, WARPS,
        )  # fmt: skip
    loads_stay_ahead()
    if not BEHIND:
        bc_old, x_old, x_past, b_past, dt_past, state = _ask_for_caches(
            conv_ring_ptr, stride_conv_row, conv_pos, of_bc, mask_n, of_x, of_y, mask_y,
            state_ptr, x_ring_ptr, b_ring_ptr, dt_ring_ptr, first_row, ring_start, held, live,
            P, N, WIDTH, CONV_ROWS, RING_ROWS, BLOCK_W, BLOCK_P, BLOCK_N, V, WARPS,
            IN_SHARED,
        )  # fmt: skip
    zero = zero_after_loads()
    bc_seen = bc_old + bc_new
    x_seen = shifted(x_of_taps, x_old, of_y, WIDTH)

    # conv1d's work.
    ACT: tl.constexpr = xbc_ptr.dtype.element_ty
    BC: tl.constexpr = c_layout(BLOCK_T, 2 * BLOCK_N, V, WARPS)
    if is_by_sums(state_ptr.dtype.element_ty, T):  # all rows are the token's
        bc = convolved(bc_seen, bc_bias, bc_taps, 0, WIDTH).to(ACT)
        bc = gl.convert_layout(bc, gl.SliceLayout(0, BC))[None, :]
        bc, _ = gl.broadcast(bc, gl.zeros([BLOCK_T, 2 * BLOCK_N], ACT, BC))
    else:
        bc = by_token(bc_seen, bc_bias, bc_taps, 0, BLOCK_T, T, WIDTH, ACT)
        bc = gl.convert_layout(gl.permute(bc, [1, 0]), BC)
    C: tl.constexpr = c_layout(BLOCK_T, BLOCK_N, V, WARPS)
    b_new = gl.convert_layout(columns_from(bc, 0, BLOCK_N), C, assert_trivial=True)
    c_new = gl.convert_layout(columns_from(bc, BLOCK_N, BLOCK_N), C, assert_trivial=True)
    x_of_y = convolved(x_seen, x_bias[None, :], x_taps, 0, WIDTH, True)
    x_of_y = gl.where((of_y < T)[:, None], x_of_y, 0.0).to(ACT)
    x_new = gl.convert_layout(x_of_y, x_layout(BLOCK_T, BLOCK_P, WARPS, WARPS))
    gl.store(
        conv_ring_ptr
        + ring_row(conv_pos + of_y, CONV_ROWS)[:, None] * stride_conv_row
        + of_x[None, :],
        x_seen[WIDTH - 1],
        mask=mask_y,
    )
    if (first_row == 0) & (head % HEADS_PER_GROUP == 0):
        append_inputs(
            bc_seen, conv_ring_ptr + of_bc, stride_conv_row, conv_pos, mask_n, T, WIDTH, CONV_ROWS
        )

    fused_tile(
        state_ptr, x_ring_ptr, b_ring_ptr, dt_ring_ptr, out_ptr, stride_out_token, stride_out_dim,
        head, first_row, live, ring_start, held, flush, seed, layer, a, bias, skip, dt_min, dt_max,
        raw, c_new, b_new, x_new, x_of_y, z, x_past, b_past, dt_past, state, zero,
        P, N, T, HEADS_PER_GROUP, RING_ROWS, PLANES, READ_C, HAS_DT_BIAS, HAS_D, HAS_Z, STOCHASTIC,
        IN_SHARED, BLOCK_P, BLOCK_T, BLOCK_W, BLOCK_N, V, WARPS, False,
    )  # fmt: skip


@jit
def _ask_for_caches(
    conv_ring_ptr, stride_conv_row, conv_pos, of_bc, mask_n, of_x, of_y, mask_y,
    state_ptr, x_ring_ptr, b_ring_ptr, dt_ring_ptr, first_row, ring_start, held, live,
    P: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, CONV_ROWS: tl.constexpr,
    RING_ROWS: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
    V: tl.constexpr, WARPS: tl.constexpr, IN_SHARED: tl.constexpr,
):  # fmt: skip
    """Return old inputs of B and C, and of x by taps; x, B and dt of the history; the state."""
    bc_old = ask_for_past_inputs(
        conv_ring_ptr + of_bc, stride_conv_row, conv_pos, mask_n, WIDTH, CONV_ROWS
    )
    x_old = ask_for_shifted_inputs(
        conv_ring_ptr + of_x, stride_conv_row, conv_pos, of_y, mask_y, WIDTH, CONV_ROWS, False
    )
    loads_stay_ahead()
    x_past, b_past, dt_past = ask_for_history(
        x_ring_ptr, b_ring_ptr, dt_ring_ptr, first_row, ring_start, held,
        P, N, RING_ROWS, BLOCK_W, BLOCK_P, BLOCK_N, V, WARPS, False,
    )  # fmt: skip
    loads_stay_ahead()
    state = ask_for_state(
        state_ptr, first_row, live, P, N, BLOCK_P, BLOCK_N, V, WARPS, IN_SHARED, WARPS
    )
    return bc_old, x_old, x_past, b_past, dt_past, state


def single(
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
    behind: bool,
) -> Compiled:
    """Write ``out`` (rows, T, H, P); append to all rings; fold and store on a flush.

    behind: another layer of the launch, linked alike, comes before. Weights are read before the
    wait: no kernel of the same graph may write them. Of the scratch it reads ``row_cursors`` and
    writes nothing. Padding rows give zeros and touch no cache.
    """
    rows, tokens = out.shape[:2]
    z = inputs.z
    grid = (shape.heads * triton.cdiv(shape.head_dim, launch.block_head_dim), rows)
    constants = tile_constants(
        tokens, z, weights, cache, scratch, shape=shape, window=window, stochastic=stochastic,
        launch=launch,
    )  # fmt: skip
    return _single_kernel[grid](
        inputs.xbc,
        weights.conv_weight,
        weights.conv_bias,
        cache.conv_ring,
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
        *inputs.xbc.stride(),
        *weights.conv_weight.stride(),
        cache.conv_ring.stride(0),
        cache.conv_ring.stride(1),
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
        WIDTH=weights.conv_weight.shape[1],
        CONV_ROWS=cache.conv_ring.shape[1],
        HAS_CONV_BIAS=weights.conv_bias is not None,
        WAIT=links.conv1d,
        SIGNAL=links.conv1d,
        BEHIND=behind and links.conv1d,
        launch_pdl=links.conv1d,
        **constants,
    )
