# SPDX-License-Identifier: Apache-2.0
"""Sums of A·dt and the decays that are their exponentials.

The sums are taken in fixed point, 64 bits with 32 after the point. Integer addition is associative:
a prefix sum is the same bits in whatever order a launch configuration's layout takes it, so a row
does not change with its bucket. And it is exact: the sum between two tokens is the difference of
two prefix sums, with no digits lost when a token far back had a large dt. What the conversion cuts
off is below 2**-32 a token, less than a rounding of the exponential. A step below -2**20 counts as
-2**20; the exponential of either is 0.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from graphrt.kernels.ptx import exp2

_ONE = tl.constexpr(2.0**32)
_LOG2_E_OVER_ONE = tl.constexpr(math.log2(math.e) / 2.0**32)
_LEAST = tl.constexpr(-(2.0**20))


@triton.jit
def fixed_steps(dt, a):
    """Return A·dt of each token in fixed point, int64."""
    return (tl.maximum(dt * a, _LEAST) * _ONE).to(tl.int64)


@triton.jit
def plus(a, b):
    """Return a + b, what a prefix sum is made of."""
    return a + b


@triton.jit
def decay_over(steps):
    """Return the decay over a sum of `fixed_steps`, fp32, in 0 … 1.

    Differences taken against time are positive; they give 1, for the caller to mask.
    """
    return exp2(tl.minimum(steps.to(tl.float32) * _LOG2_E_OVER_ONE, 0.0))
