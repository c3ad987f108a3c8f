# SPDX-License-Identifier: Apache-2.0
"""The cursors by row that advance's twin leaves, and the function that fills them without it."""

from __future__ import annotations

import pytest
import torch

from graphrt.cache import ReplayCache
from graphrt.kernels.row_cursors import fill_row_cursors
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
