# SPDX-License-Identifier: Apache-2.0
"""C as precompute hands it on for an fp16 state: no bf16 value is lost to fp16's narrower range."""

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from graphrt.kernels.dot import into_range
from graphrt.kernels.reference import _into_range
from tests.helpers.checks import check_same_bits
from tests.helpers.rows import BF16, FP16

LARGEST = 3.3895e38  # of bf16
ROWS = torch.tensor(
    [
        [LARGEST, -1.0e38, 2.0**100, 2.0**90],
        [70000.0, -3.0, 0.001, 0.0],  # beyond fp16, whose largest number is 65504
        [1.0, 2.0**-20, -(2.0**-10), 0.75],
        [1.0e-30, -3.0e-31, 1.0e-36, 0.0],
        [2.0**-126, 2.0**-126, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
    ]
).to(BF16)


@triton.jit
def _range_kernel(c_ptr, moved_ptr, undo_ptr, TOKENS: tl.constexpr, N: tl.constexpr):
    token, n = tl.arange(0, TOKENS), tl.arange(0, N)
    at = token[:, None] * N + n[None, :]
    moved, undo = into_range(tl.load(c_ptr + at), moved_ptr.dtype.element_ty)
    tl.store(moved_ptr + at, moved)
    tl.store(undo_ptr + token, undo)


def moved_by_kernel(c: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    moved, undo = torch.empty(c.shape, dtype=dtype), torch.empty(len(c))
    _range_kernel[(1,)](c, moved, undo, TOKENS=len(c), N=c.shape[1])
    return moved, undo


@pytest.fixture
def c() -> Tensor:
    return torch.cat([ROWS, ROWS[:2]])  # as many tokens as a power of two


def test_nothing_is_lost_in_fp16(c: Tensor) -> None:
    moved, undo = moved_by_kernel(c, FP16)
    assert moved.isfinite().all() and undo.isfinite().all()
    assert torch.equal(moved.double() * undo.double()[:, None], c.double())


def test_the_twin_moves_alike(c: Tensor) -> None:
    moved, undo = moved_by_kernel(c, FP16)
    twin, twin_undo = _into_range(c[None, None], FP16)
    check_same_bits(twin[0, 0], moved, "moved")
    check_same_bits(twin_undo[0, 0], undo, "undo")


def test_other_dtypes_stay(c: Tensor) -> None:
    moved, undo = moved_by_kernel(c, BF16)
    check_same_bits(moved, c, "moved")
    assert undo.tolist() == [1.0] * len(c)
