# SPDX-License-Identifier: Apache-2.0
"""Matrix products on tensor cores that lose nothing their operands hold.

A 16-bit operand is exact in tf32 (8 exponent and 10 mantissa bits hold bf16; fp16's range is
narrower and its mantissa is 10 bits too). An fp32 operand is not, so it is split into a part that
is exact in tf32 and a remainder, and both are multiplied: about 22 mantissa bits, for one more
product. Products accumulate in fp32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from graphrt.kernels.ptx import INTERPRETED


@triton.jit
def cut(value, BITS: tl.constexpr):
    """Return fp32 ``value`` without its last BITS bits, 13 for tf32, and what that left."""
    high = (value.to(tl.int32, bitcast=True) & -(1 << BITS)).to(tl.float32, bitcast=True)
    return high, value - high


@triton.jit
def dot(a, b):
    """Return a @ b in fp32, for any mix of fp32, bf16 and fp16 operands."""
    if INTERPRETED:  # it multiplies bf16 operands as raw integers: give it fp32 ones
        product = tl.dot(a.to(tl.float32), b.to(tl.float32))
    elif a.dtype == b.dtype and a.dtype != tl.float32:
        product = tl.dot(a, b)
    elif a.dtype != tl.float32 and b.dtype != tl.float32:
        product = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="tf32")
    elif b.dtype != tl.float32:
        high, low = cut(a, 13)
        exact = b.to(tl.float32)
        product = tl.dot(low, exact, input_precision="tf32")
        product = tl.dot(high, exact, product, input_precision="tf32")
    elif a.dtype != tl.float32:
        high, low = cut(b, 13)
        exact = a.to(tl.float32)
        product = tl.dot(exact, low, input_precision="tf32")
        product = tl.dot(exact, high, product, input_precision="tf32")
    else:
        product = tl.dot(a, b, input_precision="tf32x3")
    return product


@triton.jit
def into_range(c, DTYPE: tl.constexpr):
    """Return c (tokens, N) as DTYPE, and per token what a product with it must be multiplied by.

    bf16 reaches further than fp16, so each of its rows is moved into fp16's range by a power of
    two. Exact, but for what lies 2**38 below the row's largest value. Other dtypes stay.
    """
    if c.dtype == DTYPE:
        moved, undo = c, tl.full([c.shape[0]], 1.0, tl.float32)
    else:
        scale, undo = scales(tl.max(tl.abs(c.to(tl.float32)), 1))
        moved = (c.to(tl.float32) * scale[:, None]).to(DTYPE)
    return moved, undo


@triton.jit
def scales(largest):
    """Return the power of two that brings what is at most ``largest`` into range, and its undo."""
    exponent = tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, 15)
    scale = ((268 - exponent) << 23).to(tl.float32, bitcast=True)
    undo = ((exponent - 14) << 23).to(tl.float32, bitcast=True)
    return scale, undo
