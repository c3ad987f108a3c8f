# SPDX-License-Identifier: Apache-2.0
"""The contract's arithmetic, on the host's clock."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from graphrt.bench import timing
from graphrt.bench.cases import SHAPES, Case
from graphrt.bench.contender import best_of
from graphrt.bench.gate import GateError
from graphrt.bench.timing import Timed, copy_bandwidth, marginal_times
from graphrt.bench.workload import Effort, Workload

CPU = torch.device("cpu")
EFFORT = replace(Effort.quick(), rounds=5)


def test_the_marginal_cost_is_the_calls_own() -> None:
    def sleep() -> None:
        time.sleep(0.004)

    found = marginal_times({"slow": Timed([sleep] * 3), "none": Timed([int] * 3)}, CPU, EFFORT)
    assert found["slow"].us > 3900
    assert found["none"].us < 2000
    assert found["slow"].low_us <= found["slow"].us <= found["slow"].high_us
    assert (found["slow"].calls, found["slow"].rounds) == (3, 5)


def test_what_comes_before_a_round_is_not_timed() -> None:
    rounds = []

    def slow() -> None:
        rounds.append(1)
        time.sleep(0.01)

    found = marginal_times({"a": Timed([int], slow)}, CPU, EFFORT)
    assert found["a"].us < 5000
    assert len(rounds) == EFFORT.rounds + EFFORT.warm_up


def test_contenders_need_equally_many_calls() -> None:
    with pytest.raises(ValueError, match="equally many"):
        marginal_times({"a": Timed([int]), "b": Timed([int] * 2)}, CPU, EFFORT)


def test_medians_and_spread() -> None:
    found = timing._timing([30.0, 10.0, 20.0, 25.0, 15.0], base=5.0, count=5)
    assert (found.us, found.low_us, found.high_us) == (3.0, 1.0, 5.0)


def test_a_copys_bandwidth_counts_both_ways() -> None:
    assert copy_bandwidth(CPU, EFFORT) > 1e6


def test_the_best_variant_is_found_and_broken_ones_left_out() -> None:
    work = Workload(Case(shape=SHAPES["tiny"], batch=1), CPU, Effort.quick())
    count = len(work.calls)

    def broken() -> None:
        raise RuntimeError("no")

    best, calls, found = best_of(
        {
            "slow": lambda: [lambda: time.sleep(0.003)] * count,
            "fast": lambda: [lambda: None] * count,
            "broken": lambda: [broken] * count,
        },
        work,
        EFFORT,
    )
    assert best == "fast" and len(calls) == count and set(found) == {"slow", "fast"}
    with pytest.raises(GateError, match="broken"):
        best_of({"broken": lambda: [broken] * count}, work, EFFORT)
