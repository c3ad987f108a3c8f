# SPDX-License-Identifier: Apache-2.0
"""Who copies what of a state to shared memory, lines, each once, and who takes what of it."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest

from graphrt.kernels.fragments import lines_layout, slots_layout, state_layout

OF_ONE = (16, 32, 64)
TILES = pytest.mark.parametrize(
    ("rows", "columns", "v", "warps", "row_warps"),
    [
        *((rows, 128, 8, 1, 1) for rows in OF_ONE),
        *((rows, 128, 4, 1, 1) for rows in OF_ONE),
        *((16, 128, 8, 2, 1), (16, 128, 8, 4, 1), (32, 128, 4, 8, 1)),
        *((16, 16, 2, 2, 1), (16, 256, 8, 8, 1)),
        *((64, 128, 8, 2, 2), (64, 128, 4, 4, 4), (32, 128, 4, 4, 4), (32, 16, 2, 2, 2)),
    ],
)
PAIRED = pytest.mark.parametrize("paired", [False, True])


def elements(layout: Any) -> dict[tuple[int, int, int], tuple[int, int]]:
    """Return by (warp, lane, register) which element of the tensor a linear layout puts there."""
    found = {}
    bases = (layout.warp_bases, layout.lane_bases, layout.reg_bases)
    sizes = [range(1 << len(of_one)) for of_one in bases]
    for place in itertools.product(*sizes):
        at = [0, 0]
        for index, of_one in zip(place, bases, strict=True):
            for bit, basis in enumerate(of_one):
                if index >> bit & 1:
                    at = [a ^ b for a, b in zip(at, basis, strict=True)]
        found[place] = (at[0], at[1])
    return found


def in_memory(
    load: int, place: int, own: int, v: int, row_warps: int, paired: bool
) -> tuple[int, int]:
    """Return the row of P and the column that lie at a place of a load: see `ask_for_state`."""
    group, at, warp = place // (4 * v), load % own, load // own % row_warps
    row = group // 2 * 2 * own + 2 * at + group % 2 if paired else group * own + at
    return 8 * own * warp + row, load // (own * row_warps) * 4 * v + place % (4 * v)


def check_lines(found: dict[tuple[int, int, int], tuple[int, int]], line: int, v: int) -> None:
    """8 lanes that follow have ``line`` elements of a row, V each, in every register."""
    for (warp, lane, register), (p, n) in found.items():
        first_p, first_n = found[warp, lane - lane % 8, register - register % v]
        assert (p, n) == (first_p, first_n + lane % 8 * v + register % v)
        assert first_n % line == 0


def check_far_apart(found: dict[tuple[int, int, int], tuple[int, int]], rows: int) -> None:
    """The four lines of one register lie in each quarter of a warp's rows."""
    for warp, _, register in found:
        lines = [found[warp, lane, register][0] for lane in (0, 8, 16, 24)]
        assert lines == [lines[0] + quarter * rows // 4 for quarter in range(4)]


@PAIRED
@TILES
def test_a_state_is_copied_by_lines_and_taken_whole(
    rows: int, columns: int, v: int, warps: int, row_warps: int, paired: bool
) -> None:
    own = rows // (8 * row_warps)
    loads = rows // 8 * columns // (4 * v)
    copied = elements(lines_layout(loads, own, v, warps, row_warps, paired))
    there = {place: in_memory(*at, own, v, row_warps, paired) for place, at in copied.items()}
    assert Counter(there.values()) == Counter(itertools.product(range(rows), range(columns)))
    check_lines(there, 8 * v, v)
    if paired:
        check_far_apart(there, rows // row_warps)
    taken = elements(slots_layout(loads, own, v, warps, False, row_warps))
    assert Counter(taken.values()) == Counter(copied.values())


@PAIRED
@pytest.mark.parametrize(
    ("rows", "columns", "v", "warps"),
    [(16, 64, 8, 1), (32, 64, 8, 1), (32, 32, 4, 1), (64, 64, 8, 2), (64, 32, 4, 4)],
)
def test_a_thread_finds_its_elements_and_puts_what_a_flush_stores_there(
    rows: int, columns: int, v: int, warps: int, paired: bool
) -> None:
    own = rows // (8 * warps)
    slots = elements(slots_layout(rows // 8 * columns // (4 * v), own, v, warps, True, warps))
    held = elements(state_layout(rows, columns, v, warps, False, warps, paired))
    assert {place: in_memory(*at, own, v, warps, paired) for place, at in slots.items()} == held
