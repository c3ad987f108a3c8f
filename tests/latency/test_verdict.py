# SPDX-License-Identifier: Apache-2.0
"""The rule of the four verdicts, at its edges."""

from __future__ import annotations

import math

import pytest

from graphrt.latency.change import Change
from graphrt.latency.verdict import Verdict, decide


def change(ratio: float, half: float, *, p: float = 0.001, build: float = 0.0) -> Change:
    log = math.log(ratio)
    return Change(0.5, log, log - half, log + half, p, 10.0, 10.0 * ratio, 30, 8, build, True)


@pytest.mark.parametrize(
    ("ratio", "half", "p", "verdict"),
    [
        (1.05, 0.01, 0.001, Verdict.SLOWER),
        (1 / 1.05, 0.01, 0.001, Verdict.FASTER),
        (1.00, 0.01, 0.9, Verdict.SAME),
        (1.015, 0.01, 0.001, Verdict.SAME),  # real, and below the minimum
        (1.05, 0.06, 0.001, Verdict.UNDECIDED),  # the interval holds 1
        (1.05, 0.01, 0.2, Verdict.UNDECIDED),  # the rank test disagrees
        (1.00, 0.05, 0.9, Verdict.UNDECIDED),  # too wide to say same
        (1.025, 0.01, 0.001, Verdict.UNDECIDED),  # on both sides of the minimum
    ],
)
def test_each_verdict(ratio: float, half: float, p: float, verdict: Verdict) -> None:
    assert decide(change(ratio, half), p, 0.03).verdict is verdict


def test_no_change_to_measure_is_undecided() -> None:
    decision = decide(None, 1.0, 0.03)
    assert decision.verdict is Verdict.UNDECIDED and "nothing to divide by" in decision.reason


def test_undecided_says_how_many_more_samples() -> None:
    decision = decide(change(1.0, 2 * math.log1p(0.03)), 0.9, 0.03)
    assert decision.more_samples == 30 * 3 * 8  # half as wide needs four times as many
    assert "±5.9%" in decision.reason


def test_more_samples_never_is_a_number_without_hope() -> None:
    far = decide(change(1.0, 1.0), 0.9, 0.03)
    assert far.more_samples is None and "too noisy for 3.0%" in far.reason
    line = decide(change(1.0299, 0.01), 0.001, 0.03)
    assert line.more_samples is None and "choose another minimum" in line.reason


def test_the_luck_of_builds_is_named() -> None:
    assert "--builds" in decide(change(1.0, 0.05, build=0.05), 0.9, 0.03).reason
