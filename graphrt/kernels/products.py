# SPDX-License-Identifier: Apache-2.0
"""Products on tensor cores, which lose nothing their operands hold.

A 16-bit operand is exact in tf32 (8 exponent and 10 mantissa bits hold bf16; fp16's range is
narrower and its mantissa is 10 bits too). An fp32 operand is not, so it is taken in parts: two of
tf32, 21 mantissa bits, whose products are summed apart, or beside bf16 three of bf16, which are all
of it, the smaller first. Products accumulate in fp32.
"""

from __future__ import annotations

import triton.language as tl

from graphrt.kernels.dot import cut, scales
from graphrt.kernels.gluon import gl, jit, mma
from graphrt.kernels.ptx import (
    INTERPRETED,
    in_pairs_larger,
    in_pairs_magnitude,
    in_pairs_scaled_to_fp16,
)


@jit
def product(a, b, acc, TURNED: tl.constexpr = False):
    """Return acc + a @ b in fp32, for any mix of fp32, bf16 and fp16 operands.

    TURNED: in the order of the product that is this one's transpose, b times a.
    """
    high, low = product_apart(a, b, acc, gl.zeros_like(acc), TURNED)
    if a.dtype == gl.float32 or b.dtype == gl.float32:
        high += low
    return high


@jit
def product_apart(a, b, high, low, TURNED: tl.constexpr = False):
    """Return high and low + a @ b in fp32, whose sum is wanted; low has what is left of parts.

    Two sums that do not wait for each other, where an fp32 operand is taken in parts.
    """
    if a.dtype == b.dtype and a.dtype != gl.float32:
        high = mma(a, b, high)
    elif a.dtype != gl.float32 and b.dtype != gl.float32:
        high = mma(a.to(gl.float32), b.to(gl.float32), high, input_precision="tf32")
    elif b.dtype != gl.float32:
        a_high, a_low = cut(a, 13)
        exact = b.to(gl.float32)
        low = mma(a_low, exact, low, input_precision="tf32")
        high = mma(a_high, exact, high, input_precision="tf32")
    elif a.dtype != gl.float32:
        b_high, b_low = cut(b, 13)
        exact = a.to(gl.float32)
        low = mma(exact, b_low, low, input_precision="tf32")
        high = mma(exact, b_high, high, input_precision="tf32")
    else:
        a_high, a_low = cut(a, 13)
        b_high, b_low = cut(b, 13)
        if TURNED:
            low = mma(a_high, b_low, low, input_precision="tf32")
            low = mma(a_low, b_high, low, input_precision="tf32")
        else:
            low = mma(a_low, b_high, low, input_precision="tf32")
            low = mma(a_high, b_low, low, input_precision="tf32")
        high = mma(a_high, b_high, high, input_precision="tf32")
    return high, low


@jit
def product_in_bf16(a, b, acc, PARTS: tl.constexpr):
    """Return acc + a @ b in fp32, for an fp32 ``a``; bf16 parts of it beside a bf16 ``b``.

    PARTS: three hold all of ``a``, two 16 bits.
    """
    if b.dtype == gl.bfloat16:
        high, rest = cut(a, 16)
        if PARTS == 3:
            middle, low = cut(rest, 16)
            acc = mma(low.to(gl.bfloat16), b, acc)
            acc = mma(middle.to(gl.bfloat16), b, acc)
        else:
            acc = mma(rest.to(gl.bfloat16), b, acc)
        acc = mma(high.to(gl.bfloat16), b, acc)
    else:
        acc = product(a, b, acc)
    return acc


@jit
def into_range(c, DTYPE: tl.constexpr, LAYOUT: tl.constexpr):
    """Return C [tokens, N] in ``LAYOUT`` as `graphrt.kernels.dot.into_range` does."""
    if c.dtype == DTYPE:
        moved = c
        undo = gl.full([c.shape[0]], 1.0, gl.float32, gl.SliceLayout(1, LAYOUT))
    else:
        scale, undo = scales(gl.max(gl.abs(c.to(gl.float32)), 1))
        moved = (c.to(gl.float32) * scale[:, None]).to(DTYPE)
    return moved, undo


@jit
def into_range_in_pairs(c, DTYPE: tl.constexpr, V: tl.constexpr, LAYOUT: tl.constexpr):
    """Return the same, bf16 into fp16 two at a time, as they lie in registers of a `c_layout`.

    The fused kernel gains by fewer instructions and registers; precompute was 2 to 5 % slower.
    """
    if c.dtype == gl.bfloat16 and DTYPE == gl.float16 and not INTERPRETED:
        scale, undo = scales(_largest(in_pairs_magnitude(c), V))
        scale = gl.convert_layout(scale, gl.SliceLayout(1, LAYOUT), assert_trivial=True)
        undo = gl.convert_layout(undo, gl.SliceLayout(1, LAYOUT), assert_trivial=True)
        moved = in_pairs_scaled_to_fp16(c, scale.to(gl.bfloat16)[:, None])
    else:
        moved, undo = into_range(c, DTYPE, LAYOUT)
    return moved, undo


@jit
def _largest(c, V: tl.constexpr):
    """Return the largest of each token's magnitudes [tokens, N], bf16; a thread has V of them."""
    T: tl.constexpr = c.shape[0]
    N: tl.constexpr = c.shape[1]
    if N > 4 * V:
        a, b = gl.split(gl.permute(gl.reshape(c, [T, 2, N // 2]), [0, 2, 1]))
        largest = _largest(in_pairs_larger(a, b), V)
    elif V > 2:
        a, b = gl.split(gl.permute(gl.reshape(c, [T, 4, 2, V // 2]), [0, 1, 3, 2]))
        largest = _largest(gl.reshape(in_pairs_larger(a, b), [T, N // 2]), V // 2)
    else:
        largest = gl.max(c.to(gl.float32), 1)
    return largest
