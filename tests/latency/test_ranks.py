# SPDX-License-Identifier: Apache-2.0
"""Rank tests against what counting every arrangement gives."""

import itertools

import numpy as np
import pytest

from graphrt.latency.ranks import holm, rank_sum_p, ranked, signed_rank_p


def counted_rank_sum(a: np.ndarray, b: np.ndarray) -> float:
    """Return the exact two-sided p: the share of splits at least as far from the middle."""
    both = np.concatenate([a, b])
    middle = len(a) * len(b) / 2

    def distance(chosen: tuple[int, ...]) -> float:
        rest = [i for i in range(len(both)) if i not in chosen]
        wins = sum((both[i] > both[j]) + 0.5 * (both[i] == both[j]) for i in chosen for j in rest)
        return abs(wins - middle)

    seen = distance(tuple(range(len(a))))
    splits = [distance(s) for s in itertools.combinations(range(len(both)), len(a))]
    return sum(d >= seen - 1e-9 for d in splits) / len(splits)


def counted_signed_rank(differences: np.ndarray) -> float:
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    middle = ranks.sum() / 2
    seen = abs(ranks[differences > 0].sum() - middle)
    signs = itertools.product((0, 1), repeat=len(differences))
    found = [abs((ranks * np.array(s)).sum() - middle) >= seen - 1e-9 for s in signs]
    return sum(found) / len(found)


@pytest.mark.parametrize("shift", [0.0, 0.7, 1.5])
def test_rank_sum_is_close_to_counting(shift: float) -> None:
    random = np.random.default_rng(3)
    a, b = random.normal(size=7), random.normal(shift, 1, size=7)
    assert rank_sum_p(a, b) == pytest.approx(counted_rank_sum(a, b), abs=0.02)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.2])
def test_signed_rank_is_close_to_counting(shift: float) -> None:
    differences = np.random.default_rng(4).normal(shift, 1, size=11)
    expected = counted_signed_rank(differences)
    assert signed_rank_p(differences) == pytest.approx(expected, abs=0.02)


def test_swapping_the_sides_changes_no_p() -> None:
    random = np.random.default_rng(5)
    a, b = random.normal(size=20), random.normal(0.4, 1, size=25)
    assert rank_sum_p(a, b) == rank_sum_p(b, a)
    differences = random.normal(0.4, 1, size=20)
    assert signed_rank_p(differences) == signed_rank_p(-differences)


def test_equal_numbers_say_nothing() -> None:
    assert rank_sum_p(np.ones(5), np.ones(6)) == 1.0
    assert signed_rank_p(np.zeros(5)) == 1.0


def test_ties_share_their_rank() -> None:
    ranks, ties = ranked(np.array([5.0, 1.0, 5.0, 7.0]))
    assert ranks.tolist() == [2.5, 1.0, 2.5, 4.0]
    assert ties == 6.0


def test_holm_multiplies_by_how_many_are_left_and_never_falls() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
