# SPDX-License-Identifier: Apache-2.0
"""A small sound consumer, and the same with one fault of PDL each. Compiled, never launched.

In all of them a producer upstream writes ``x`` (and ``index`` where there is one); ``weight``,
``table`` and ``out`` are nobody else's.
"""

from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.jit import JITFunction

_BLOCK = 64


@triton.jit
def sound(x_ptr, weight_ptr, out_ptr, BLOCK: tl.constexpr):
    tl.extra.cuda.gdc_launch_dependents()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    weight = tl.load(weight_ptr + at)
    tl.extra.cuda.gdc_wait()
    tl.store(out_ptr + at, tl.load(x_ptr + at) * weight)


@triton.jit
def load_before_wait(x_ptr, weight_ptr, out_ptr, BLOCK: tl.constexpr):
    tl.extra.cuda.gdc_launch_dependents()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)  # FAULT
    tl.extra.cuda.gdc_wait()
    tl.store(out_ptr + at, x * tl.load(weight_ptr + at))


@triton.jit
def store_before_wait(x_ptr, weight_ptr, out_ptr, BLOCK: tl.constexpr):
    tl.extra.cuda.gdc_launch_dependents()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(weight_ptr + at))  # FAULT
    tl.extra.cuda.gdc_wait()
    tl.store(out_ptr + at, tl.load(x_ptr + at))


@triton.jit
def wait_in_one_branch(x_ptr, weight_ptr, out_ptr, rows, BLOCK: tl.constexpr):
    tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(0)
    at = row * BLOCK + tl.arange(0, BLOCK)
    weight = tl.load(weight_ptr + at)
    if row < rows:  # FAULT
        tl.extra.cuda.gdc_wait()
        weight *= tl.load(x_ptr + at)
    tl.store(out_ptr + at, weight)


@triton.jit
def return_before_wait(x_ptr, weight_ptr, out_ptr, rows, BLOCK: tl.constexpr):
    tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(0)
    if row >= rows:  # FAULT
        return
    at = row * BLOCK + tl.arange(0, BLOCK)
    tl.extra.cuda.gdc_wait()
    tl.store(out_ptr + at, tl.load(x_ptr + at) * tl.load(weight_ptr + at))


@triton.jit
def loop_across_wait(x_ptr, out_ptr, rows, BLOCK: tl.constexpr):
    tl.extra.cuda.gdc_launch_dependents()
    at = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for row in tl.range(0, rows, num_stages=3):
        if row == 0:
            tl.extra.cuda.gdc_wait()
        total += tl.load(x_ptr + row * BLOCK + at)  # FAULT, by the compiler: loads run ahead
    tl.store(out_ptr + at, total)


@triton.jit
def no_signal(x_ptr, weight_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    weight = tl.load(weight_ptr + at)
    tl.extra.cuda.gdc_wait()
    tl.store(out_ptr + at, tl.load(x_ptr + at) * weight)


@triton.jit
def signal_in_one_branch(x_ptr, weight_ptr, out_ptr, rows, BLOCK: tl.constexpr):
    if tl.program_id(0) < rows:  # FAULT
        tl.extra.cuda.gdc_launch_dependents()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.extra.cuda.gdc_wait()
    tl.store(out_ptr + at, tl.load(x_ptr + at) * tl.load(weight_ptr + at))


@triton.jit
def signal_after_wait(x_ptr, weight_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.extra.cuda.gdc_wait()
    tl.extra.cuda.gdc_launch_dependents()  # late
    tl.store(out_ptr + at, tl.load(x_ptr + at) * tl.load(weight_ptr + at))


@triton.jit
def stale_index(x_ptr, index_ptr, out_ptr, BLOCK: tl.constexpr):
    tl.extra.cuda.gdc_launch_dependents()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    index = tl.load(index_ptr + at)  # FAULT
    tl.extra.cuda.gdc_wait()
    tl.store(out_ptr + at, tl.load(x_ptr + index))  # CHASED


@triton.jit
def chased_pointer(table_ptr, out_ptr, BLOCK: tl.constexpr):
    tl.extra.cuda.gdc_launch_dependents()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x_ptr = tl.load(table_ptr).to(tl.pointer_type(tl.float32))
    x = tl.load(x_ptr + at)  # FAULT: nobody can say what it reads
    tl.extra.cuda.gdc_wait()
    tl.store(out_ptr + at, x)


_TYPES = {"index_ptr": "*i32", "table_ptr": "*i64", "rows": "i32"}


def compile_kernel(kernel: JITFunction, capability: int = 90) -> CompiledKernel:
    """Compile ``kernel`` for ``sm_<capability>``, linked, with its pointers aligned to 16 bytes."""
    signature = {n: _TYPES.get(n, "*fp32") for n in kernel.arg_names} | {"BLOCK": "constexpr"}
    constants = {(kernel.arg_names.index("BLOCK"),): _BLOCK}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if name.endswith("_ptr")
    }
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": 4, "launch_pdl": True}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def line_of(kernel: JITFunction, mark: str) -> int:
    """Return the line of this file on which ``mark`` stands in ``kernel``."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"def {kernel.__name__}("))
    return 1 + next(i for i in range(first, len(lines)) if mark in lines[i])
