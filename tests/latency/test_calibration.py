# SPDX-License-Identifier: Apache-2.0
"""How often the verdicts are right when the truth is known. Seeded; run time is seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from graphrt.latency.change import measure_change
from graphrt.latency.verdict import Verdict, decide
from tests.helpers.recordings import samples

Floats = NDArray[np.float64]
Machine = Callable[[np.random.Generator], Floats]

RUNS = 60
MINIMUM = 0.03


def quiet(random: np.random.Generator) -> Floats:
    return samples(random)


def heavy_tails(random: np.random.Generator) -> Floats:
    """Nearly Cauchy noise: some samples take twice as long."""
    return samples(random) * np.exp(np.clip(0.01 * random.standard_t(1.5, (5, 6, 8)), -1, 1))


def bimodal_blocks(random: np.random.Generator) -> Floats:
    """Clocks that are 8 % slower in half of the blocks."""
    return samples(random) * np.exp(0.08 * (random.random((5, 6, 1)) < 0.5))


def bimodal_builds(random: np.random.Generator) -> Floats:
    """Allocations that are 8 % slower in half of the builds."""
    return samples(random) * np.exp(0.08 * (random.random((5, 1, 1)) < 0.5))


def verdicts(
    machine: Machine, loss: float, *, paired: bool, drift: float = 0.0, seed: int = 7
) -> Counter[Verdict]:
    """Return how often each verdict is given; ``drift`` is what both sides slow down by."""
    random = np.random.default_rng(seed)
    slowing = np.exp(np.linspace(0, drift, 30)).reshape(5, 6, 1)
    found: Counter[Verdict] = Counter()
    for _ in range(RUNS):
        old, new = machine(random) * slowing, machine(random) * slowing * (1 + loss)
        change = measure_change(old, new, paired=paired)
        assert change is not None
        found[decide(change, change.p, MINIMUM).verdict] += 1
    return found


MACHINES = [quiet, heavy_tails, bimodal_blocks, bimodal_builds]


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("machine", MACHINES)
def test_false_alarms_are_rare(machine: Machine, paired: bool) -> None:
    found = verdicts(machine, 0.0, paired=paired)
    assert found[Verdict.SLOWER] + found[Verdict.FASTER] <= 0.05 * RUNS + 2


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("machine", [quiet, heavy_tails])
@pytest.mark.parametrize("loss", [0.05, 0.10])
def test_losses_are_found(machine: Machine, paired: bool, loss: float) -> None:
    assert verdicts(machine, loss, paired=paired)[Verdict.SLOWER] >= 0.95 * RUNS


@pytest.mark.parametrize("paired", [True, False])
def test_gains_are_found_as_losses_are(paired: bool) -> None:
    assert verdicts(quiet, 1 / 1.05 - 1, paired=paired)[Verdict.FASTER] >= 0.95 * RUNS


@pytest.mark.parametrize("paired", [True, False])
def test_a_quiet_machine_says_same(paired: bool) -> None:
    assert verdicts(quiet, 0.0, paired=paired)[Verdict.SAME] >= 0.95 * RUNS


@pytest.mark.parametrize("machine", [bimodal_blocks, bimodal_builds])
def test_a_bimodal_machine_says_undecided_and_not_same(machine: Machine) -> None:
    assert verdicts(machine, 0.0, paired=False)[Verdict.UNDECIDED] >= 0.7 * RUNS


def test_what_drifts_for_both_sides_hides_no_loss_and_makes_none() -> None:
    assert verdicts(quiet, 0.0, paired=True, drift=0.3)[Verdict.SAME] >= 0.95 * RUNS
    assert verdicts(quiet, 0.05, paired=True, drift=0.3)[Verdict.SLOWER] >= 0.95 * RUNS


def test_a_loss_below_the_minimum_is_not_called() -> None:
    found = verdicts(quiet, 0.01, paired=True)
    assert found[Verdict.SLOWER] == 0 and found[Verdict.SAME] >= 0.9 * RUNS


def test_as_many_more_samples_as_it_says_settle_it() -> None:
    """A noisy machine: take what was missing in builds of the same kind, and ask again."""
    settled = 0
    for seed in range(20):
        random = np.random.default_rng(seed)

        def side(us: float, blocks: int, random: np.random.Generator = random) -> Floats:
            return samples(random, us, blocks=blocks, noise=0.12, luck=0.0)

        change = measure_change(side(10, 6), side(10.6, 6), paired=True)
        assert change is not None
        first = decide(change, change.p, MINIMUM)
        if first.verdict is not Verdict.UNDECIDED:
            settled += 1
            continue
        more = min(first.more_samples or 0, 40_000)
        blocks = 6 + round(2 * more / (5 * 8))
        again = measure_change(side(10, blocks), side(10.6, blocks), paired=True)
        assert again is not None
        settled += decide(again, again.p, MINIMUM).verdict is not Verdict.UNDECIDED
    assert settled >= 14
