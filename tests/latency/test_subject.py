# SPDX-License-Identifier: Apache-2.0
"""Subjects measured for real, on the CPU: planted losses are found where they are."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest
import torch

from graphrt.bench.cases import SHAPES, Case
from graphrt.bench.gate import GateError
from graphrt.latency.budget import Budget
from graphrt.latency.chain import Planted, chain_builder
from graphrt.latency.effects import MinimumEffects
from graphrt.latency.interleave import LocalSide
from graphrt.latency.live import compare_live
from graphrt.latency.quantities import WHOLE, Key
from graphrt.latency.recorder import record
from graphrt.latency.subject import Build, GraphSubject
from graphrt.latency.verdict import Verdict
from graphrt.latency.yardsticks import Yardsticks

CPU = torch.device("cpu")
BUDGET = Budget(builds=4, blocks=5, host_calls=4, steps=4, marginals=2, recaptures=2, calls=2)


def spin(us: float) -> Callable[[], None]:
    def work() -> None:
        until = time.perf_counter_ns() + us * 1e3
        while time.perf_counter_ns() < until:
            pass

    return work


def spinning(first_us: float, second_us: float, gate: Callable[[], object] | None = None) -> Build:
    first, second = spin(first_us), spin(second_us)

    def work() -> None:
        first()
        second()

    return lambda: GraphSubject(
        work, CPU, BUDGET, parts={"first": first, "second": second}, gate=gate
    )


def test_a_planted_loss_is_called_and_its_part_named() -> None:
    with contextlib.closing(Yardsticks(CPU)) as yardsticks:
        sides = (
            LocalSide("old", {"spin": spinning(300, 300)}, yardsticks),
            LocalSide("new", {"spin": spinning(300, 600)}, yardsticks),
        )
        found = compare_live(sides, ["spin"], CPU, BUDGET, effects=MinimumEffects(0.1))
    assert found.verdict is Verdict.SLOWER
    verdicts = {result.key: result.verdict for result in found.series if result.quantile == 0.5}
    assert verdicts[Key("cpu_part", "second")] is Verdict.SLOWER
    assert verdicts[Key("host_launch")] is Verdict.SLOWER
    assert found.why["spin"][0].startswith("stage: second +")


@pytest.mark.parametrize("right", [True, False])
def test_a_surprising_gain_runs_the_gate_again(right: bool) -> None:
    runs = 0

    def gate() -> None:
        nonlocal runs
        runs += 1
        if runs > 1 and not right:
            raise GateError("y is wrong")

    with contextlib.closing(Yardsticks(CPU)) as yardsticks:
        sides = (
            LocalSide("old", {"spin": spinning(300, 600)}, yardsticks),
            LocalSide("new", {"spin": spinning(300, 100, gate)}, yardsticks),
        )
        found = compare_live(sides, ["spin"], CPU, BUDGET, effects=MinimumEffects(0.1))
    assert found.verdict is Verdict.FASTER and runs == 2
    assert found.gates["spin"] == ("passed, passed" if right else "FAILED, y is wrong")
    assert found.passed is right


def test_the_chain_has_every_series_that_a_cpu_has() -> None:
    case, budget = Case(shape=SHAPES["tiny"], batch=2), Budget.quick()
    with contextlib.closing(Yardsticks(CPU)) as yardsticks:
        side = LocalSide("now", {"chain": chain_builder(case, CPU, budget)}, yardsticks)
        (found,) = record([side], ["chain"], CPU, budget)
    taken = found.cases["chain"]
    assert taken.failed is None and found.complete
    stages = {"advance", "conv1d", "precompute", "state_update", WHOLE}
    assert set(taken.series) == {Key("cpu_part", stage) for stage in stages} | {
        Key(name) for name in ("capture", "first_launch", "host_launch", "step")
    }
    assert taken.facts["tuning"]["match"] in ("default", "nearest", "exact")
    assert taken.facts["gate"].startswith("largest error")
    assert set(found.cases["chain"].yardsticks) == {Key("copy"), Key("host_loop")}


def test_what_is_planted_in_the_chain_runs_in_the_launch_and_in_its_stage() -> None:
    ran = 0

    def work() -> None:
        nonlocal ran
        ran += 1

    case, budget = Case(shape=SHAPES["tiny"], batch=1), Budget.quick()
    subject = chain_builder(case, CPU, budget, Planted("conv1d", work))()
    samplers = subject.samplers()
    for part, runs in (("conv1d", True), ("precompute", False), (WHOLE, True)):
        ran = 0
        samplers[Key("cpu_part", part)].take()
        assert bool(ran) is runs, part
    ran = 0
    subject.graph.launch()
    assert ran == 1
    subject.close()
