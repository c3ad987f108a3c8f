# SPDX-License-Identifier: Apache-2.0
"""What is made of B and x as they were loaded: the names follow what movmatrix moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import TensorHandle

from graphrt.kernels import renames
from graphrt.kernels.renames import turned, turned_x


@triton.jit
def _turn(b_ptr, out_ptr, W: tl.constexpr, N: tl.constexpr, V: tl.constexpr):
    at = tl.arange(0, W)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out_ptr + at, turned(tl.load(b_ptr + at), V))


@triton.jit
def _turn_x(x_ptr, out_ptr, W: tl.constexpr, P: tl.constexpr, ROW_WARPS: tl.constexpr):
    at = tl.arange(0, W)[:, None] * P + tl.arange(0, P)[None, :]
    tl.store(out_ptr + at, turned_x(tl.load(x_ptr + at), ROW_WARPS, ROW_WARPS))


def movmatrix(value: Any, v: int) -> Any:
    """Return what lanes hold after it, under the names of what they held: ``v`` of a row together.

    PTX: lane 4 g + t gives elements 2t and 2t + 1 of row g, and gets those of column g.
    """
    b = value.handle.data
    moved = b.copy()
    tokens, columns = b.shape
    for first_token in range(0, tokens, 8):
        for first in range(0, columns, 4 * v):
            for pair in range(0, v, 2):  # a register of each lane
                held = {
                    (g, t): (first_token + g, first + t * v + pair)
                    for g in range(8)
                    for t in range(4)
                }
                matrix = [
                    [b[held[g, c // 2][0], held[g, c // 2][1] + c % 2] for c in range(8)]
                    for g in range(8)
                ]
                for (g, t), (j, n) in held.items():
                    moved[j, n], moved[j, n + 1] = matrix[2 * t][g], matrix[2 * t + 1][g]
    return tl.tensor(TensorHandle(moved, value.handle.dtype), value.type)


def check_names(
    kernel: Any, tokens: int, columns: int, v: int, monkeypatch: pytest.MonkeyPatch, **sizes: int
) -> None:
    """What the kernel turns keeps its place by name, and would not if nothing were renamed."""
    monkeypatch.setattr(renames, "INTERPRETED", tl.constexpr(False))
    given = torch.randperm(tokens * columns).view(tokens, columns).to(torch.int16)
    out = torch.zeros_like(given)
    monkeypatch.setattr(renames, "turned_blocks", lambda value: movmatrix(value, v))
    kernel[(1,)](given, out, tokens, columns, **sizes)
    assert torch.equal(out, given)
    monkeypatch.setattr(renames, "turned_blocks", lambda value: value)
    kernel[(1,)](given, out, tokens, columns, **sizes)
    assert not torch.equal(out, given), "nothing was renamed"


@pytest.mark.parametrize(("window", "state_dim", "v"), [(16, 128, 8), (32, 64, 8), (16, 64, 4)])
def test_an_element_of_b_keeps_its_name(
    window: int, state_dim: int, v: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_names(_turn, window, state_dim, v, monkeypatch, V=v)


@pytest.mark.parametrize(
    ("tokens", "rows", "row_warps"), [(8, 32, 1), (16, 8, 1), (16, 64, 1), (8, 16, 2), (16, 64, 4)]
)
def test_an_element_of_x_keeps_its_name(
    tokens: int, rows: int, row_warps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_a_lane = rows // (4 * row_warps)  # by an out_layout
    check_names(_turn_x, tokens, rows, of_a_lane, monkeypatch, ROW_WARPS=row_warps)
