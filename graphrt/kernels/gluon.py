# SPDX-License-Identifier: Apache-2.0
"""Gluon, Triton's language in which a kernel says which thread holds what, and its interpretation.

Under Triton's interpreter, which has no threads, the same kernel source runs as Triton: a layout
says where a value is, never what it is, so it may be left out.

Shared memory is used for what is fetched: `fetch` starts a copy, `fetched` waits for it and for all
warps', `part` takes some rows, `put` changes some.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2
from triton.runtime.interpreter import TensorHandle

from graphrt.kernels.ptx import INTERPRETED


class _Interpreted:
    """What the kernels use of Gluon's language, without layouts."""

    int32, int64, float32, bfloat16 = tl.int32, tl.int64, tl.float32, tl.bfloat16

    @staticmethod
    def SliceLayout(dim: int, parent: Any) -> None:
        return None

    @staticmethod
    def full(shape: Sequence[int], value: Any, dtype: Any, layout: Any) -> Any:
        return tl.full(shape, value, dtype)

    @staticmethod
    def DotOperandLayout(operand: int, parent: Any, k_width: int) -> None:
        return None

    @staticmethod
    def SwizzledSharedLayout(vec: int, per_phase: int, max_phase: int, order: Any) -> None:
        return None

    @staticmethod
    def allocate_shared_memory(dtype: Any, shape: Any, layout: Any) -> list[Any]:
        return []

    @staticmethod
    def arange(start: int, end: int, layout: Any) -> Any:
        return tl.arange(start, end)

    @staticmethod
    def zeros(shape: Sequence[int], dtype: Any, layout: Any) -> Any:
        return tl.zeros(shape, dtype)

    @staticmethod
    def convert_layout(value: Any, layout: Any, assert_trivial: bool = False) -> Any:
        return value

    def __getattr__(self, name: str) -> Any:
        return getattr(tl, name)


def _interpreted_mma(a: Any, b: Any, acc: Any, input_precision: str | None = None) -> Any:
    # From fp32, because the interpreter holds bf16 as raw integers. In fp64, rounded once: numpy's
    # fp32 sums differ in their last bit with the number of rows.
    left, right = (operand.to(tl.float32).handle.data.astype(np.float64) for operand in (a, b))
    total = (left @ right + acc.handle.data).astype(np.float32)
    return tl.tensor(TensorHandle(total, acc.handle.dtype), acc.type)


def _interpreted_fetch(memory: list[Any], pointers: Any, mask: Any) -> None:
    memory[:] = [tl.load(pointers, mask=mask, other=0.0)]


def _interpreted_fetched() -> None:
    pass


def _interpreted_part(memory: list[Any], first: int, count: int, layout: Any) -> Any:
    (whole,) = memory
    rows = whole.handle.data[int(first) : int(first) + int(count)].copy()
    handle = TensorHandle(rows, whole.handle.dtype)
    return tl.tensor(handle, tl.block_type(whole.dtype, list(rows.shape)))


def _interpreted_put(memory: list[Any], first: int, rows: Any) -> None:
    (whole,) = memory
    changed = whole.handle.data.copy()
    changed[int(first) : int(first) + rows.shape[0]] = rows.handle.data
    memory[:] = [tl.tensor(TensorHandle(changed, whole.handle.dtype), whole.type)]


if INTERPRETED:
    gl: Any = _Interpreted()
    jit, mma = triton.jit, _interpreted_mma
    fetch, fetched = _interpreted_fetch, _interpreted_fetched
    part, put = _interpreted_part, _interpreted_put
else:
    gl, jit, mma = language, gluon.jit, mma_v2

    @jit
    def fetch(memory, pointers, mask):
        """Start a copy into shared memory; what is masked out becomes 0."""
        async_copy.async_copy_global_to_shared(memory, pointers, mask=mask)
        async_copy.commit_group()

    @jit
    def fetched():
        """Block until all copies have arrived."""
        async_copy.wait_group(0)

    @jit
    def part(memory, FIRST: tl.constexpr, COUNT: tl.constexpr, LAYOUT: tl.constexpr):
        """Return COUNT rows of shared memory from FIRST on."""
        return memory.slice(FIRST, COUNT).load(LAYOUT)

    @jit
    def put(memory, FIRST: tl.constexpr, rows):
        """Put rows into shared memory, from FIRST on."""
        memory.slice(FIRST, rows.shape[0]).store(rows)
