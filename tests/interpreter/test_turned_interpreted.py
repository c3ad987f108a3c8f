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


@pytest.mark.parametrize(("window", "state_dim", "v"), [(16, 128, 8), (32, 64, 8), (16, 64, 4)])
def test_an_element_keeps_its_name(
    window: int, state_dim: int, v: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renames, "INTERPRETED", tl.constexpr(False))
    monkeypatch.setattr(renames, "turned_blocks", lambda b: movmatrix(b, v))
    b = torch.randperm(window * state_dim).view(window, state_dim).to(torch.int16)
    out = torch.zeros_like(b)
    _turn[(1,)](b, out, W=window, N=state_dim, V=v)
    assert torch.equal(out, b)
    monkeypatch.setattr(renames, "turned_blocks", lambda b: b)
    _turn[(1,)](b, out, W=window, N=state_dim, V=v)
    assert not torch.equal(out, b), "nothing was renamed"


@pytest.mark.parametrize(
    ("tokens", "rows", "row_warps"), [(8, 32, 1), (16, 8, 1), (16, 64, 1), (8, 16, 2), (16, 64, 4)]
)
def test_an_element_of_x_keeps_its_name(
    tokens: int, rows: int, row_warps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = rows // (8 * row_warps)  # of P for a lane of an x_layout, half of an out_layout's
    monkeypatch.setattr(renames, "INTERPRETED", tl.constexpr(False))
    monkeypatch.setattr(renames, "turned_blocks", lambda x: movmatrix(x, 2 * own))
    x = torch.randperm(tokens * rows).view(tokens, rows).to(torch.int16)
    out = torch.zeros_like(x)
    _turn_x[(1,)](x, out, W=tokens, P=rows, ROW_WARPS=row_warps)
    assert torch.equal(out, x)
    monkeypatch.setattr(renames, "turned_blocks", lambda x: x)
    _turn_x[(1,)](x, out, W=tokens, P=rows, ROW_WARPS=row_warps)
    assert not torch.equal(out, x), "nothing was renamed"
