# SPDX-License-Identifier: Apache-2.0
"""The depthwise causal convolution over a launch's tokens, then SiLU: conv1d's, and single's.

A thread has all tokens of its channels (a tuple of them, each input loaded once), or where it has
few tokens of many channels, those that each tap meets.

Loops over taps and tokens are unrolled as Triton compiles them, and grow tuples: mypy, which takes
an empty tuple to stay empty, is told so.
"""

from __future__ import annotations

import triton
import triton.language as tl

from graphrt.kernels.fragments import padded_taps
from graphrt.kernels.gluon import gl, jit
from graphrt.kernels.ptx import divided, exp, multiplied_and_added
from graphrt.kernels.row_cursors import ring_row


@triton.jit
def taps_of(
    weight_ptr, stride_channel, stride_tap, bias_ptr, channel, mask,
    WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Return the bias of some channels and a tuple of their taps, the oldest token's first."""
    bias = (channel * 0).to(tl.float32)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + channel, mask=mask, other=0.0).to(tl.float32)
    taps = ()
    for tap in tl.static_range(WIDTH):
        tap_ptrs = weight_ptr + channel * stride_channel + tap * stride_tap
        weight = tl.load(tap_ptrs, mask=mask, other=0.0).to(tl.float32)
        taps += (weight,)  # type: ignore[assignment]  # grows, unrolled
    return bias, taps


@jit
def taps_together(
    weight_ptr, stride_channel: tl.constexpr, stride_tap: tl.constexpr, bias_ptr, channel, mask,
    WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr, TAPS: tl.constexpr, LAYOUT: tl.constexpr,
):  # fmt: skip
    """Return the same for channels in LAYOUT, asked for by whole rows of weights, in TAPS."""
    ROOM: tl.constexpr = padded_taps(WIDTH)
    tap = gl.arange(0, ROOM, layout=gl.SliceLayout(0, TAPS))
    of_tap = mask[:, None] & (tap < WIDTH)[None, :]
    weights = gl.load(
        weight_ptr + channel[:, None] * stride_channel + tap[None, :] * stride_tap,
        mask=of_tap if WIDTH < ROOM else mask[:, None],
        other=0.0,
    )
    bias = (channel * 0).to(gl.float32)
    if HAS_BIAS:
        bias = gl.load(bias_ptr + channel, mask=mask, other=0.0).to(gl.float32)
    weights = weights.to(gl.float32)
    if WIDTH == 2:
        taps = gl.split(weights)
    else:
        even, odd = gl.split(gl.reshape(weights, [weights.shape[0], 2, 2]))
        first, third = gl.split(even)
        second, fourth = gl.split(odd)
        taps = (first, second, third, fourth)
    placed = ()
    for index in gl.static_range(WIDTH):
        tap = gl.convert_layout(taps[index], LAYOUT, assert_trivial=True)
        placed += (tap,)  # type: ignore[assignment]  # grows, unrolled
    taps = placed
    return gl.convert_layout(bias, LAYOUT, assert_trivial=True), taps


@triton.jit
def ask_for_past_inputs(
    ring_ptrs, stride_ring_row, conv_pos, mask, WIDTH: tl.constexpr, RING_ROWS: tl.constexpr
):
    """Return a tuple of the history's last WIDTH - 1 inputs. ring_ptrs: a slot's channels."""
    seen = ()
    for index in tl.static_range(1 - WIDTH, 0):
        row = ring_row(conv_pos + index + RING_ROWS, RING_ROWS)
        token = tl.load(ring_ptrs + row * stride_ring_row, mask=mask, other=0.0)
        seen += (token,)  # type: ignore[assignment]  # grows, unrolled
    return seen


@triton.jit
def ask_for_new_inputs(xbc_ptrs, stride_token, mask, T: tl.constexpr):
    """Return a tuple of the launch's T inputs. xbc_ptrs: a row's channels."""
    seen = ()
    for index in tl.static_range(T):
        token = tl.load(xbc_ptrs + index * stride_token, mask=mask, other=0.0)
        seen += (token,)  # type: ignore[assignment]  # grows, unrolled
    return seen


@triton.jit
def ask_for_shifted_inputs(
    ptrs, stride_row, first, token, mask, WIDTH: tl.constexpr, ROWS: tl.constexpr, NEW: tl.constexpr
):
    """Return a tuple: what each tap but, of the history, the last meets, [tokens, channels].

    ptrs: a row's or a slot's channels. first: the row of the launch's first token. token, mask: the
    launch's. NEW: inputs of the launch, else of the history; 0 where it is the other.
    """
    seen = ()
    for tap in tl.static_range(WIDTH if NEW else WIDTH - 1):
        index = token + (tap + 1 - WIDTH)
        met = index >= 0 if NEW else index < 0
        row = index if NEW else ring_row(first + index + ROWS, ROWS)
        row_ptrs = ptrs[None, :] + row[:, None] * stride_row
        value = tl.load(row_ptrs, mask=mask & met[:, None], other=0.0)
        seen += (value,)  # type: ignore[assignment]  # grows, unrolled
    return seen


@triton.jit
def shifted(new, old, token, WIDTH: tl.constexpr):
    """Return what each tap meets, of both tuples that `ask_for_shifted_inputs` returned."""
    seen = ()
    for tap in tl.static_range(WIDTH):
        met = new[tap]
        if tap + 1 < WIDTH:
            met = tl.where((token + (tap + 1 - WIDTH) < 0)[:, None], old[tap], met)
        seen += (met,)  # type: ignore[assignment]  # grows, unrolled
    return seen


@triton.jit
def convolved(
    seen, bias, taps, INDEX: tl.constexpr, WIDTH: tl.constexpr, BY_TOKEN: tl.constexpr = False
):
    """Return what taps make of ``seen`` from INDEX on, after SiLU, fp32.

    BY_TOKEN: seen, and so the result, is [tokens, channels].
    """
    total = bias
    for tap in tl.static_range(WIDTH):
        weight = taps[tap][None, :] if BY_TOKEN else taps[tap]
        total = multiplied_and_added(seen[INDEX + tap].to(tl.float32), weight, total)
    return divided(total, 1.0 + exp(-total))


@jit
def by_token(
    seen, bias, taps, FIRST: tl.constexpr, COUNT: tl.constexpr, T: tl.constexpr,
    WIDTH: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Return COUNT of a launch's tokens from FIRST on, convolved, [channels, COUNT]; 0 behind T."""
    if COUNT == 1:
        if FIRST < T:
            found = convolved(seen, bias, taps, FIRST, WIDTH).to(DTYPE)
        else:
            found = (bias * 0.0).to(DTYPE)
        found = gl.reshape(found, [bias.shape[0], 1])
    else:
        HALF: tl.constexpr = COUNT // 2
        # The last first: the first tokens wait for the history, which comes from memory.
        right = by_token(seen, bias, taps, FIRST + HALF, HALF, T, WIDTH, DTYPE)
        left = by_token(seen, bias, taps, FIRST, HALF, T, WIDTH, DTYPE)
        both = gl.permute(gl.join(left, right), [0, 2, 1])
        found = gl.reshape(both, [bias.shape[0], COUNT])
    return found


@triton.jit
def append_inputs(
    seen, ring_ptrs, stride_ring_row, conv_pos, mask,
    T: tl.constexpr, WIDTH: tl.constexpr, RING_ROWS: tl.constexpr,
):  # fmt: skip
    """Store a launch's T inputs behind the history's. seen: both, as they were asked for."""
    for index in tl.static_range(T):
        row = ring_row(conv_pos + index, RING_ROWS)
        tl.store(ring_ptrs + row * stride_ring_row, seen[WIDTH - 1 + index], mask=mask)
