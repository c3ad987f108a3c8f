# SPDX-License-Identifier: Apache-2.0
"""What is made of B and x as they were loaded: the names follow what movmatrix moves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import TensorHandle

from graphrt.kernels import renames
from graphrt.kernels.renames import by_p, by_token, turned

Element = tuple[int, int]
Registers = Callable[[int, int], list[tuple[Element, Element]]]
"""The two elements of each register of lane 4 g + t, by their places in a tensor."""


@triton.jit
def _turn(b_ptr, out_ptr, W: tl.constexpr, N: tl.constexpr, V: tl.constexpr):
    at = tl.arange(0, W)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out_ptr + at, turned(tl.load(b_ptr + at), V))


@triton.jit
def _turn_over(
    x_ptr, out_ptr, W: tl.constexpr, P: tl.constexpr, WARPS: tl.constexpr,
    PAIRED: tl.constexpr, BY_TOKEN: tl.constexpr,
):  # fmt: skip
    at = tl.arange(0, W)[:, None] * P + tl.arange(0, P)[None, :]
    x = tl.load(x_ptr + at)
    x = by_token(x, WARPS, PAIRED) if BY_TOKEN else by_p(x, WARPS, PAIRED)
    tl.store(out_ptr + at, x)


def movmatrix(value: Any, registers: Registers) -> Any:
    """Return what lanes hold after it, under the names of what they held.

    PTX: lane 4 g + t gives elements 2t and 2t + 1 of row g, and gets those of column g.
    """
    given = value.handle.data
    moved = given.copy()
    for register in range(len(registers(0, 0))):
        held = {(g, t): registers(g, t)[register] for g in range(8) for t in range(4)}
        matrix = [[given[held[g, c // 2][c % 2]] for c in range(8)] for g in range(8)]
        for (g, t), (first, second) in held.items():
            moved[first], moved[second] = matrix[2 * t][g], matrix[2 * t + 1][g]
    return tl.tensor(TensorHandle(moved, value.handle.dtype), value.type)


def of_b(tokens: int, columns: int, v: int) -> Registers:
    """Return what lanes hold of B by a `c_layout`: ``v`` of a row together."""
    return lambda g, t: [
        ((token + g, n), (token + g, n + 1))
        for token in range(0, tokens, 8)
        for first in range(0, columns, 4 * v)
        for n in range(first + t * v, first + (t + 1) * v, 2)
    ]


def of_x(tokens: int, rows: int, warps: int, paired: bool, by_token: bool) -> Registers:
    """Return what lanes hold of x [tokens, rows] by an `x_layout` if ``by_token``, or as loaded."""
    own = rows // (8 * warps)

    def p(g: int, f: int) -> int:
        return g // 2 * 2 * own + 2 * f + g % 2 if paired else g * own + f

    def pair(i: int, w: int, f: int, g: int, t: int) -> tuple[Element, Element]:
        if by_token:
            first, second = ((8 * i + 2 * t + e, 8 * own * w + p(g, f)) for e in range(2))
        else:
            first, second = ((8 * i + g, 8 * own * w + p(2 * t + e, f)) for e in range(2))
        return first, second

    places = list(product(range(tokens // 8), range(warps), range(own)))
    return lambda g, t: [pair(i, w, f, g, t) for i, w, f in places]


def check_names(
    kernel: Any, shape: tuple[int, int], held: Registers, patch: pytest.MonkeyPatch, **sizes: int
) -> None:
    """What the kernel turns keeps its place by name, and would not if nothing were renamed."""
    patch.setattr(renames, "INTERPRETED", tl.constexpr(False))
    given = torch.randperm(shape[0] * shape[1]).view(shape).to(torch.int16)
    out = torch.zeros_like(given)
    patch.setattr(renames, "turned_blocks", lambda value: movmatrix(value, held))
    kernel[(1,)](given, out, *shape, **sizes)
    assert torch.equal(out, given)
    patch.setattr(renames, "turned_blocks", lambda value: value)
    kernel[(1,)](given, out, *shape, **sizes)
    assert not torch.equal(out, given), "nothing was renamed"


@pytest.mark.parametrize(("window", "state_dim", "v"), [(16, 128, 8), (32, 64, 8), (16, 64, 4)])
def test_an_element_of_b_keeps_its_name(
    window: int, state_dim: int, v: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (window, state_dim)
    check_names(_turn, shape, of_b(*shape, v), monkeypatch, V=v)


@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(
    ("tokens", "rows", "warps"), [(8, 32, 1), (16, 8, 1), (16, 64, 1), (8, 16, 2), (16, 64, 4)]
)
def test_an_element_of_x_keeps_its_name(
    tokens: int,
    rows: int,
    warps: int,
    paired: bool,
    by_token: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = of_x(tokens, rows, warps, paired, by_token)
    check_names(
        _turn_over, (tokens, rows), held, monkeypatch,
        WARPS=warps, PAIRED=paired, BY_TOKEN=by_token,
    )  # fmt: skip
