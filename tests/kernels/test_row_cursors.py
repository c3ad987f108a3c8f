# SPDX-License-Identifier: Apache-2.0
"""The cursors by row that advance's twin leaves, and the function that fills them without it."""

from __future__ import annotations

import random

import pytest
import torch

from graphrt.cache import ReplayCache
from graphrt.kernels.row_cursors import fill_row_cursors, mixed_order
from tests.helpers.cases import BASE
from tests.helpers.checks import check_same_bits
from tests.helpers.contents import WILD
from tests.helpers.row_cursors import COUNTS, advanced, advanced_many


def test_the_twin_leaves_every_rows_cursors() -> None:
    flushes = 0
    for launch, (got, expected) in enumerate(advanced("cpu")):
        check_same_bits(got, expected, f"row_cursors of launch {launch}")
        flushes += int((expected[:, 3] == 1).sum())
    assert flushes >= 2


@pytest.mark.parametrize("count", COUNTS)
def test_a_launch_of_many_rows(count: int) -> None:
    got, expected = advanced_many("cpu", count)
    check_same_bits(got, expected, "row_cursors")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.31, 0.8, 1.0])
@pytest.mark.parametrize("rows", [1, 24, 32, 64, 100, 512])
def test_rows_that_flush_are_spread_evenly_and_end_no_launch(rows: int, share: float) -> None:
    draw = random.Random(rows)
    flushes = [draw.random() < share for _ in range(rows)]
    order = mixed_order(flushes).tolist()
    assert sorted(order) == list(range(rows))
    found = [flushes[row] for row in order]
    at_the_end = min(24, flushes[-64:].count(False))
    assert not any(found[rows - at_the_end :])
    for end in range(rows, 0, -64):
        first = max(end - 64, 0)
        assert sorted(order[first:end]) == list(range(first, end))
        mixed = found[first : end if end < rows else rows - at_the_end]
        for count in range(1, len(mixed) + 1):
            assert abs(sum(mixed[:count]) - sum(mixed) * count / len(mixed)) <= 1


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_filling_reads_the_cursors_as_they_stand(dtype: torch.dtype) -> None:
    cache = ReplayCache(BASE.config("cpu"))
    cursors = cache.cursors
    for number, name in enumerate(("held", "ring_start", "flushed", "conv_pos", "rand_seed")):
        getattr(cursors, name).copy_(torch.arange(5) + 10 * (number + 1))
    cursors.flushed.copy_(torch.tensor([1, 1, 1, 1, 0]))
    cursors.rand_seed[0] = WILD  # in no row; padding must not pick it up
    rows = torch.full((4, 8), WILD, dtype=torch.int64)
    fill_row_cursors(rows[:3], torch.tensor([4, -1, 2], dtype=dtype), cursors)
    assert rows.tolist() == [
        [2, 12, 22, 1, 42, 52, 2, 0],
        [4, 14, 24, 0, 44, 54, 0, 0],
        [-1, 0, 0, 0, 0, 0, 1, 0],
        [WILD] * 8,
    ]
