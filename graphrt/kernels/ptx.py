# SPDX-License-Identifier: Apache-2.0
"""Instructions that Triton does not give by itself, and what stands for them on the CPU."""

from __future__ import annotations

import math

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Whether kernels are run by Triton's interpreter, which knows no PTX."""

_LOG2_E = tl.constexpr(math.log2(math.e))


def _by_first_thread(instruction: str) -> tl.constexpr:
    """Return the text by which a program's first thread alone runs ``instruction``; it gives 0."""
    return tl.constexpr(
        f"""{{
        .reg .pred first;
        .reg .u32 thread;
        mov.u32 thread, %tid.x;
        setp.eq.u32 first, thread, 0;
        @first {instruction};
        mov.u32 $0, 0;
        }}"""
    )


_ASK_FOR_BYTES = _by_first_thread("cp.async.bulk.prefetch.L2.global [$1], $2")
_ASK_FOR_LINE = _by_first_thread("prefetch.global.L2 [$1]")


@triton.jit
def loads_stay_ahead():
    """Have the loads before this come before the loads after it, as they are written.

    ptxas puts a load off until just before its use, where registers are scarce: one more trip to
    memory. It moves none across a barrier, and that of a warp which runs together takes no time.
    """
    if not INTERPRETED:
        tl.inline_asm_elementwise(
            "bar.warp.sync 0xffffffff; mov.b32 $0, 0;", "=r", [], tl.int32, is_pure=False, pack=1
        )


@triton.jit
def zero_after_loads():
    """Return 0, fp32, for whatever has to come after the loads before this, as they are written.

    The lesser of some number's magnitude and 0, the number a clock's: neither compiler sees that it
    is 0, nor reads the clock earlier.
    """
    zero = 0.0
    if not INTERPRETED:
        ticks = tl.inline_asm_elementwise(
            "bar.warp.sync 0xffffffff; mov.u32 $0, %clock;",
            "=r",
            [],
            tl.int32,
            is_pure=False,
            pack=1,
        )
        zero = tl.minimum(tl.abs(ticks.to(tl.float32)), 0.0)
    return zero


@triton.jit
def by_thread(value):
    """Return int32 ``value``, alike in all threads, so that ptxas takes it for each thread's own.

    What follows from it is computed in a thread's registers then, and not by the unit that computes
    for a whole warp, which takes longer. What is added is 0, the high half of 4096 times the lane.
    """
    own = value
    if not INTERPRETED:
        own += tl.inline_asm_elementwise(
            "{ .reg .u32 lane; mov.u32 lane, %laneid; mul.hi.u32 $0, lane, 4096; }",
            "=r",
            [],
            tl.int32,
            is_pure=True,
            pack=1,
        )
    return own


@triton.jit
def ask_for_in_l2(pointer, size):
    """Have ``size`` bytes, a multiple of 16, from ``pointer`` on brought into L2.

    Waits for nothing; one thread asks, by an instruction that sm_90 and later have. It is no
    access: L2 is where all writes are seen.
    """
    if not INTERPRETED:
        tl.inline_asm_elementwise(
            _ASK_FOR_BYTES, "=r,l,r", [pointer, size], tl.int32, is_pure=False, pack=1
        )


@triton.jit
def ask_for_line_in_l2(pointer):
    """Have the line that ``pointer`` lies in brought into L2, as `ask_for_in_l2`; sm_80 can."""
    if not INTERPRETED:
        tl.inline_asm_elementwise(_ASK_FOR_LINE, "=r,l", [pointer], tl.int32, is_pure=False, pack=1)


@triton.jit
def in_pairs_magnitude(value):
    """Return the magnitude of bf16 ``value``, two elements at a time."""
    return tl.inline_asm_elementwise(
        "abs.bf16x2 $0, $1;", "=r,r", [value], tl.bfloat16, is_pure=True, pack=2
    )


@triton.jit
def in_pairs_larger(a, b):
    """Return the larger of each element of two bf16 tensors, two at a time."""
    return tl.inline_asm_elementwise(
        "max.bf16x2 $0, $1, $2;",
        "=r,r,r",
        [a, b],
        tl.bfloat16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def in_pairs_scaled_to_fp16(value, scale):
    """Return bf16 ``value`` times bf16 ``scale``, a power of two, in fp16, two at a time."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 moved, zero, low, high;
        mov.b32 zero, 0x80008000;
        fma.rn.bf16x2 moved, $1, $2, zero;
        shl.b32 low, moved, 16;
        and.b32 high, moved, 0xffff0000;
        cvt.rn.f16x2.f32 $0, high, low;
        }""",
        "=r,r,r",
        [value, scale],
        tl.float16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def turned_blocks(value):
    """Return a 16-bit ``value`` whose 8 x 8 blocks, a row for 4 lanes, are transposed in place.

    Lane 4 g + t has two elements that lie together, 2t and 2t + 1 of row g; then of column g.
    """
    return tl.inline_asm_elementwise(
        "movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;",
        "=r,r",
        [value],
        value.dtype,
        is_pure=True,
        pack=2,
    )


@triton.jit
def exp2(value):
    """Return 2 to the fp32 ``value``, by one instruction: what is no normal number is 0."""
    if INTERPRETED:
        power = tl.exp2(value)
    else:
        power = tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [value], dtype=tl.float32, is_pure=True, pack=1
        )
    return power


@triton.jit
def exp(value):
    """Return e to the fp32 ``value``; 0 where that is no normal number."""
    return exp2(value * _LOG2_E)


@triton.jit
def multiplied_and_added(a, b, c):
    """Return a * b + c, fp32, rounded once; what is no normal number is 0.

    By order and not by contraction, so that every kernel and configuration has it.
    """
    if INTERPRETED:
        found = a * b + c
    else:
        found = tl.inline_asm_elementwise(
            "fma.rn.ftz.f32 $0, $1, $2, $3;",
            "=f,f,f,f",
            [a, b, c],
            tl.float32,
            is_pure=True,
            pack=1,
        )
    return found


@triton.jit
def divided(a, b):
    """Return a / b, fp32, by a reciprocal: within 2 units in the last place up to 2**126."""
    if INTERPRETED:
        found = a / b
    else:
        found = tl.inline_asm_elementwise(
            "div.approx.ftz.f32 $0, $1, $2;", "=f,f,f", [a, b], tl.float32, is_pure=True, pack=1
        )
    return found
