# SPDX-License-Identifier: Apache-2.0
"""The interval of a change: what it holds, and that it knows no direction."""

import math

import numpy as np
import pytest

from graphrt.latency.change import measure_change, student
from tests.helpers.recordings import samples


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_swapped_sides_give_the_mirror_image(paired: bool, quantile: float) -> None:
    random = np.random.default_rng(0)
    old, new = samples(random), samples(random, 10.4)
    there = measure_change(old, new, paired=paired, quantile=quantile)
    back = measure_change(new, old, paired=paired, quantile=quantile)
    assert there is not None and back is not None
    assert there.log_ratio == -back.log_ratio
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p == back.p


@pytest.mark.parametrize("paired", [True, False])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(paired: bool) -> None:
    random = np.random.default_rng(1)
    truth, held = math.log(1.04), 0
    for _ in range(100):
        change = measure_change(samples(random), samples(random, 10.4), paired=paired)
        assert change is not None
        held += change.low <= truth <= change.high
    assert held >= 89  # of 95 expected


def test_the_same_samples_give_the_same_answer() -> None:
    random = np.random.default_rng(2)
    old, new = samples(random), samples(random)
    first = measure_change(old, new, paired=False)
    assert first == measure_change(old, new, paired=False)


def test_a_side_that_is_not_above_zero_has_no_ratio() -> None:
    random = np.random.default_rng(3)
    assert measure_change(samples(random), samples(random) - 20, paired=True) is None


def test_unlucky_builds_widen_the_interval() -> None:
    random = np.random.default_rng(4)
    calm = measure_change(samples(random), samples(random), paired=True)
    lucky = measure_change(samples(random, luck=0.05), samples(random, luck=0.05), paired=True)
    assert calm is not None and lucky is not None
    assert lucky.half_width > 5 * calm.half_width
    assert lucky.build_half_width > 5 * calm.build_half_width


def test_a_single_build_has_no_luck_to_speak_of() -> None:
    random = np.random.default_rng(5)
    change = measure_change(samples(random, builds=1), samples(random, builds=1), paired=False)
    assert change is not None and change.build_half_width == 0.0


def test_pairs_need_equally_many_blocks() -> None:
    random = np.random.default_rng(6)
    with pytest.raises(ValueError, match="equally many blocks"):
        measure_change(samples(random, blocks=5), samples(random, blocks=6), paired=True)
    assert measure_change(samples(random, blocks=5), samples(random), paired=False) is not None


def test_students_quantile_is_never_too_small() -> None:
    assert student(1) == 12.706
    assert student(4.9) == 2.776
    assert student(0.5) == 12.706
    assert student(1e9) == 1.98
