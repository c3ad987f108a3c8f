# SPDX-License-Identifier: Apache-2.0
"""Sides take turns, are always let go, and fail together."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from graphrt.bench.gate import GateError
from graphrt.latency.budget import Budget
from graphrt.latency.interleave import take_case
from graphrt.latency.quantities import Key

A, B = Key("step"), Key("capture")


class Recorded:
    """A side that notes what is asked of it."""

    def __init__(self, label: str, log: list[str], keys: dict[Key, int] | None = None) -> None:
        self.label, self.log = label, log
        self.keys = keys or {A: 1 << 30, B: 1}
        self.error: Exception | None = None

    def build(self, case: str) -> dict[Key, int]:
        self.log.append(f"{self.label} build")
        return self.keys

    def sample(self, key: Key) -> list[float]:
        self.log.append(f"{self.label} {key}")
        return [1.0, 2.0]

    def yardsticks(self) -> dict[Key, list[float]]:
        return {Key("copy"): [3.0]}

    def what(self) -> dict[str, Any]:
        return {"label": self.label}

    def facts(self) -> dict[str, Any]:
        return {}

    def check(self) -> str:
        if self.error is not None:
            raise self.error
        return "right"

    def release(self) -> None:
        self.log.append(f"{self.label} release")

    def close(self) -> None:
        """Do nothing."""


BUDGET = Budget(builds=2, blocks=4)


def test_shapes_and_turns() -> None:
    log: list[str] = []
    taken = take_case([Recorded("a", log), Recorded("b", log)], "case", BUDGET)
    for one in taken:
        assert one.array(A).shape == (2, 4, 2)
        assert one.array(B).shape == (2, 1, 2)
        assert one.facts == {"gate": "right"}
        assert one.yardsticks[Key("copy")] == [[[3.0]] * 4] * 2
    builds = [line for line in log if line.endswith("build")]
    assert builds == ["a build", "b build", "b build", "a build"]
    steps = [line[0] for line in log if line.endswith("step")]
    pairs = ["".join(steps[i : i + 2]) for i in range(2, 10, 2)]  # after the warm-up
    assert set(pairs) == {"ab", "ba"} and all(x != y for x, y in pairwise(pairs))


def test_a_gate_that_fails_leaves_no_times_on_either_side() -> None:
    log: list[str] = []
    wrong = Recorded("b", log)
    wrong.error = GateError("y is wrong")
    taken = take_case([Recorded("a", log), wrong], "case", BUDGET)
    assert [one.failed for one in taken] == ["GateError: y is wrong"] * 2
    assert all(not one.series for one in taken)
    assert not any("step" in line for line in log)
    assert log[-2:] == ["a release", "b release"]


def test_only_series_that_both_sides_have_are_taken() -> None:
    log: list[str] = []
    taken = take_case([Recorded("a", log), Recorded("b", log, {A: 9})], "case", BUDGET)
    assert [set(one.series) for one in taken] == [{A}, {A}]


def test_what_is_no_failure_of_a_side_is_raised_and_sides_are_let_go() -> None:
    log: list[str] = []
    broken = Recorded("a", log)
    broken.error = KeyError("a bug")
    with pytest.raises(KeyError):
        take_case([broken], "case", BUDGET)
    assert log[-1] == "a release"
