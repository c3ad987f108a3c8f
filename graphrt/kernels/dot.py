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

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Triton's interpreter multiplies bf16 operands as raw integers: give it fp32 ones."""


@triton.jit
def _tf32_part(value):
    """Return fp32 ``value`` with the mantissa cut to tf32's ten bits."""
    return (value.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def dot(a, b):
    """Return a @ b in fp32, for any mix of fp32, bf16 and fp16 operands."""
    if INTERPRETED:
        product = tl.dot(a.to(tl.float32), b.to(tl.float32))
    elif a.dtype == b.dtype and a.dtype != tl.float32:
        product = tl.dot(a, b)
    elif a.dtype != tl.float32 and b.dtype != tl.float32:
        product = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="tf32")
    elif b.dtype == tl.bfloat16:
        # Three bf16 parts hold all 24 bits of a, and b stays as it is.
        high = a.to(tl.bfloat16)
        rest = a - high.to(tl.float32)
        middle = rest.to(tl.bfloat16)
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
def read_out(c, state):
    """Return c @ state.T in fp32: (tokens, N) and (P, N) to (tokens, P)."""
    if INTERPRETED or c.dtype != tl.bfloat16 or state.dtype != tl.float16:
        product = dot(c, tl.trans(state))
    else:
        # bf16 reaches further than fp16, so each row of c is moved into fp16's range by a power of
        # two. Exact, but for what lies 2**38 below the row's largest value.
        largest = tl.max(tl.abs(c.to(tl.float32)), 1)
        exponent = tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, 15)
        scale = ((268 - exponent) << 23).to(tl.float32, bitcast=True)
        undo = ((exponent - 14) << 23).to(tl.float32, bitcast=True)
        scaled = (c.to(tl.float32) * scale[:, None]).to(tl.float16)
        product = tl.dot(scaled, tl.trans(state)) * undo[:, None]
    return product


@triton.jit
def dot_planes(past_ptrs, new_ptrs, stride_plane, mask, x_past, x_new, PLANES: tl.constexpr):
    """Return causal @ x in fp32 over history and new tokens, causal as precompute stores it.

    One fp32 plane, or two of bf16 whose sum it is: 16 bits of it, 256 times finer than the bf16
    output. The small plane is multiplied first.
    """
    past = tl.load(past_ptrs, mask=mask, other=0.0)
    new = tl.load(new_ptrs, mask=mask, other=0.0)
    if PLANES == 1:
        product = dot(past, x_past) + dot(new, x_new)
    else:
        low_past = tl.load(past_ptrs + stride_plane, mask=mask, other=0.0)
        low_new = tl.load(new_ptrs + stride_plane, mask=mask, other=0.0)
        if INTERPRETED:
            product = dot(past, x_past) + dot(new, x_new)
            product += dot(low_past, x_past) + dot(low_new, x_new)
        else:
            product = tl.dot(low_past, x_past)
            product = tl.dot(low_new, x_new, product)
            product = tl.dot(new, x_new, product)
            product = tl.dot(past, x_past, product)
    return product
