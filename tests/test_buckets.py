# SPDX-License-Identifier: Apache-2.0
"""Which bucket a batch is padded up to, and which lists of buckets are refused."""

import itertools

import pytest

from graphrt.buckets import check_buckets, choose_bucket
from graphrt.errors import ConfigError, SlotError


def rising_lists(largest: int) -> list[tuple[int, ...]]:
    return [
        buckets
        for length in range(1, largest + 1)
        for buckets in itertools.combinations(range(1, largest + 1), length)
    ]


def test_the_smallest_that_holds_the_rows_is_chosen() -> None:
    for buckets in rising_lists(7):
        for rows in range(1, buckets[-1] + 1):
            assert choose_bucket(rows, buckets) == min(b for b in buckets if b >= rows)


@pytest.mark.parametrize("rows", [-1, 0, 5, 6, 1000])
def test_no_rows_and_more_than_the_largest_bucket_are_refused(rows: int) -> None:
    with pytest.raises(SlotError, match=rf"^rows={rows}: a launch takes 1 … 4 rows.*; split"):
        choose_bucket(rows, (1, 2, 4))


def test_every_rising_list_within_the_slots_is_taken() -> None:
    for buckets in rising_lists(6):
        for slots in range(buckets[-1], 8):
            check_buckets(buckets, slots)


@pytest.mark.parametrize(
    ("buckets", "slots", "said"),
    [
        ((), 4, r"^buckets=\(\): must name at least one batch size; "),
        ((0, 1), 4, r"^buckets=\(0, 1\): every bucket must be ≥ 1; "),
        ((-2,), 4, r"^buckets=\(-2,\): every bucket must be ≥ 1; "),
        ((1, 1), 4, r"^buckets=\(1, 1\): must be strictly rising; sort them"),
        ((4, 2), 4, r"^buckets=\(4, 2\): must be strictly rising; sort them"),
        ((1, 2, 8), 4, r"^buckets=\(1, 2, 8\): the largest bucket must be ≤ slots \(4\).*; lower"),
    ],
)
def test_a_list_that_breaks_a_rule_is_refused(
    buckets: tuple[int, ...], slots: int, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        check_buckets(buckets, slots)
