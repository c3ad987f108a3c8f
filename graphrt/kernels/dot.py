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
def _tf32_part(value):
    """Return fp32 ``value`` with the mantissa cut to tf32's ten bits."""
    return (value.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def dot(a, b, PARTS: tl.constexpr = 0):
    """Return a @ b in fp32, for any mix of fp32, bf16 and fp16 operands.

    PARTS: of bf16 that an fp32 ``a`` beside a bf16 ``b`` is taken in: three hold it all, two 16
    bits. 0 for two of tf32.
    """
    if INTERPRETED:  # it multiplies bf16 operands as raw integers: give it fp32 ones
        product = tl.dot(a.to(tl.float32), b.to(tl.float32))
    elif a.dtype == b.dtype and a.dtype != tl.float32:
        product = tl.dot(a, b)
    elif a.dtype != tl.float32 and b.dtype != tl.float32:
        product = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="tf32")
    elif b.dtype == tl.bfloat16 and PARTS > 0:
        high = a.to(tl.bfloat16)  # b stays as it is
        rest = a - high.to(tl.float32)
        middle = rest.to(tl.bfloat16)
        if PARTS == 2:
            product = tl.dot(middle, b)
        else:
            product = tl.dot((rest - middle.to(tl.float32)).to(tl.bfloat16), b)
            product = tl.dot(middle, b, product)
        product = tl.dot(high, b, product)
    elif b.dtype != tl.float32:
        high = _tf32_part(a)
        exact = b.to(tl.float32)
        product = tl.dot(a - high, exact, input_precision="tf32")
        product = tl.dot(high, exact, product, input_precision="tf32")
    elif a.dtype != tl.float32:
        high = _tf32_part(b)
        exact = a.to(tl.float32)
        product = tl.dot(exact, b - high, input_precision="tf32")
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
        largest = tl.max(tl.abs(c.to(tl.float32)), 1)
        exponent = tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, 15)
        scale = ((268 - exponent) << 23).to(tl.float32, bitcast=True)
        moved = (c.to(tl.float32) * scale[:, None]).to(DTYPE)
        undo = ((exponent - 14) << 23).to(tl.float32, bitcast=True)
    return moved, undo


@triton.jit
def dot_planes(x_past, x_new, past, new, low_past, low_new, PLANES: tl.constexpr):
    """Return x @ causal^T in fp32 over history and new tokens, causal as precompute stores it.

    One fp32 plane, or two of bf16 whose sum it is: 16 bits of it, 256 times finer than the bf16
    output. The small plane is multiplied first.
    """
    past, new = tl.trans(past), tl.trans(new)
    low_past, low_new = tl.trans(low_past), tl.trans(low_new)
    if PLANES == 1:
        product = dot(x_past, past) + dot(x_new, new)
    elif INTERPRETED:
        product = dot(x_past, past) + dot(x_new, new)
        product += dot(x_past, low_past) + dot(x_new, low_new)
    else:
        product = tl.dot(x_past, low_past)
        product = tl.dot(x_new, low_new, product)
        product = tl.dot(x_new, new, product)
        product = tl.dot(x_past, past, product)
    return product
