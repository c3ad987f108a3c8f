# SPDX-License-Identifier: Apache-2.0
"""The state update's products on tensor cores, which lose nothing their operands hold.

A 16-bit operand is exact in tf32 (8 exponent and 10 mantissa bits hold bf16; fp16's range is
narrower and its mantissa is 10 bits too). An fp32 operand is not, so it is taken in parts: two of
tf32, 21 mantissa bits, whose products are summed apart, or beside bf16 three of bf16, which are all
of it, the smaller first. Products accumulate in fp32.
"""

from __future__ import annotations

import triton.language as tl

from graphrt.kernels.dot import cut
from graphrt.kernels.gluon import gl, jit, mma


@jit
def product(a, b, acc):
    """Return acc + a @ b in fp32, for any mix of fp32, bf16 and fp16 operands."""
    high, low = product_apart(a, b, acc, gl.zeros_like(acc))
    if a.dtype == gl.float32 or b.dtype == gl.float32:
        high += low
    return high


@jit
def product_apart(a, b, high, low):
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
