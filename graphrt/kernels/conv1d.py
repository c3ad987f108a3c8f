# SPDX-License-Identifier: Apache-2.0
"""conv1d: depthwise causal convolution over the launch's T tokens, then SiLU.

A program has some channels, a thread all tokens of its own: every input is loaded once.

The convolution's history lies in ``conv_ring`` and is read at the committed ``conv_pos``: rejected
tokens are rolled back by the same counter as the state, without a copy.

Linked, it is the dependent of whatever kernel comes before it, so all it reads before its wait are
the weights; and it signals only after the wait, because precompute reads before its own wait what
kernels ahead of conv1d have written (`graphrt.kernels.pdl`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from graphrt.config import PdlLinks
from graphrt.kernels.compiled import NO_CONTRACTION, Compiled
from graphrt.kernels.convolution import (
    append_inputs,
    ask_for_new_inputs,
    ask_for_past_inputs,
    convolved,
    taps_of,
)
from graphrt.kernels.pdl import signal_consumer, wait_for_producer
from graphrt.kernels.row_cursors import CONV_POS, ROW, SLOT, row_cursor
from graphrt.kernels.tensors import LayerCache, LayerInputs, LayerWeights, Scratch
from graphrt.kernels.tuning import Conv1dLaunch
from graphrt.kernels.whole_lines import whole_lines


@whole_lines
@triton.jit
def _conv1d_kernel(
    # pointers
    xbc_ptr,
    weight_ptr,
    bias_ptr,
    conv_ring_ptr,
    conv_out_ptr,
    row_cursors_ptr,
    # strides, in elements
    stride_xbc_row,
    stride_xbc_token,
    stride_xbc_channel,
    stride_weight_channel,
    stride_weight_tap,
    stride_ring_slot,
    stride_ring_row,
    stride_out_row,
    stride_out_token,
    # constants
    CHANNELS: tl.constexpr,
    T: tl.constexpr,
    WIDTH: tl.constexpr,
    RING_ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    WAIT: tl.constexpr,
    SIGNAL: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    signal_consumer(SIGNAL and not WAIT)
    line = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_channel = channel < CHANNELS

    bias, taps = taps_of(
        weight_ptr, stride_weight_channel, stride_weight_tap, bias_ptr, channel, is_channel,
        WIDTH, HAS_BIAS,
    )  # fmt: skip

    wait_for_producer(WAIT)
    signal_consumer(SIGNAL and WAIT)
    row = row_cursor(row_cursors_ptr, line, ROW).to(tl.int64)
    slot = row_cursor(row_cursors_ptr, line, SLOT).to(tl.int64)
    conv_pos = row_cursor(row_cursors_ptr, line, CONV_POS)
    live = slot >= 0
    mask = is_channel & live
    xbc_ptrs = xbc_ptr + row * stride_xbc_row + channel * stride_xbc_channel
    ring_ptrs = conv_ring_ptr + slot * stride_ring_slot + channel
    seen = ask_for_past_inputs(ring_ptrs, stride_ring_row, conv_pos, mask, WIDTH, RING_ROWS)
    seen += ask_for_new_inputs(xbc_ptrs, stride_xbc_token, mask, T)
    out_ptrs = conv_out_ptr + row * stride_out_row + channel
    for index in tl.static_range(T):
        tl.store(
            out_ptrs + index * stride_out_token,
            tl.where(live, convolved(seen, bias, taps, index, WIDTH), 0.0).to(
                conv_out_ptr.dtype.element_ty
            ),
            mask=is_channel,
        )
    append_inputs(seen, ring_ptrs, stride_ring_row, conv_pos, mask, T, WIDTH, RING_ROWS)


def conv1d(
    inputs: LayerInputs,
    weights: LayerWeights,
    cache: LayerCache,
    scratch: Scratch,
    *,
    links: PdlLinks,
    launch: Conv1dLaunch,
) -> Compiled:
    """Write ``scratch.conv_out``; append the raw inputs to ``cache.conv_ring``.

    Everything before it has completed when it signals precompute. The weights are read before the
    wait: no kernel of the same graph may write them. Padding rows give zeros and touch no cache.
    """
    rows, tokens, channels = inputs.xbc.shape
    grid = (triton.cdiv(channels, launch.block_channels), rows)
    return _conv1d_kernel[grid](
        inputs.xbc,
        weights.conv_weight,
        weights.conv_bias,
        cache.conv_ring,
        scratch.conv_out,
        scratch.row_cursors,
        *inputs.xbc.stride(),
        *weights.conv_weight.stride(),
        cache.conv_ring.stride(0),
        cache.conv_ring.stride(1),
        scratch.conv_out.stride(0),
        scratch.conv_out.stride(1),
        CHANNELS=channels,
        T=tokens,
        WIDTH=weights.conv_weight.shape[1],
        RING_ROWS=cache.conv_ring.shape[1],
        HAS_BIAS=weights.conv_bias is not None,
        WAIT=links.conv1d,
        SIGNAL=links.precompute,
        BLOCK_C=launch.block_channels,
        num_warps=launch.num_warps,
        launch_pdl=links.conv1d,
        **NO_CONTRACTION,
    )
