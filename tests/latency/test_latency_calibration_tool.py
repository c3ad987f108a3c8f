# SPDX-License-Identifier: Apache-2.0
"""The calibration that a GPU gets, tried out without one; what it counts, and what it plants."""

from __future__ import annotations

import contextlib
import importlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphrt.bench.cases import SHAPES, Case
from graphrt.bench.stages import chosen_launch
from graphrt.bench.workload import Effort, Workload
from graphrt.kernels.chain import BoundChain
from graphrt.kernels.tuning import StateUpdateLaunch
from graphrt.latency.budget import Budget
from graphrt.latency.compare import Comparison, compare
from graphrt.latency.ranks import signed_rank_p
from tests.helpers.recordings import STAGE, WHOLE, recording, samples
from tools import latency_calibration
from tools.gpu.calibration import faults, sections
from tools.gpu.calibration.bench import BUDGET, Bench
from tools.gpu.calibration.shares import at_least, at_most
from tools.gpu.calibration.tally import LossTally
from tools.gpu.calibration.waits import WaitCounts
from tools.gpu.spinner import Spinner

CPU = torch.device("cpu")


def found_of(loss: float, *, facts: dict[str, Any] | None = None, seed: int = 0) -> Comparison:
    """Compare a chain with one that is slower by ``loss``, and so is its state update."""
    random = np.random.default_rng(seed)

    def series(factor: float) -> dict[Any, Any]:
        return {WHOLE: samples(random, 20.0 * factor), STAGE: samples(random, 15.0 * factor)}

    old = recording(series(1.0))
    return compare(old, recording(series(1 + loss), label="new", facts=facts, seed=1))


def test_every_section_runs_and_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "SHARES", (0.1,))
    monkeypatch.setattr(Budget, "quick", lambda: Budget(2, 2, 1, 1, 1, 1, 1, 1, 0.01))
    options = ["--device", "cpu", "--out", str(tmp_path), "--commit", "abc"]
    assert latency_calibration.main(options) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["kind"] == "graphrt latency calibration" and report["passed"] and report["quick"]
    assert report["command"].endswith("--seconds 450 --comparisons 200 --repeats 20")
    found = report["sections"]
    assert list(found) == ["self", "kernel", "link", "tile", "load", "wait"]
    assert (
        found["self"]["comparisons"] == 2 and found["kernel"]["planted"]["10%"]["comparisons"] == 1
    )
    for section in found.values():
        assert section["failures"] == [] and section["seconds_a_comparison"]["build"] > 0
    assert found["wait"]["counts"]["not compared for another reason"] == 0
    assert len((tmp_path / "comparisons.jsonl").read_text().splitlines()) == 1 + 2 + 5
    assert str(tmp_path) not in json.dumps(report)


def test_a_section_that_raises_is_recorded_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(bench: Bench, until: float) -> dict[str, Any]:
        raise KeyError("a bug")

    monkeypatch.setattr(latency_calibration, "_prepared", contextlib.nullcontext)
    monkeypatch.setitem(sections.SECTIONS, "self", broken)
    monkeypatch.setitem(sections.SECTIONS, "tile", lambda bench, until: {"failures": []})
    options = ["--device", "cpu", "--out", str(tmp_path), "--sections", "self", "tile"]
    assert latency_calibration.main(options) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["sections"]["self"]["failures"] == ["KeyError: 'a bug'"]
    assert report["sections"]["tile"]["failures"] == [] and not report["passed"]


def bench_of(path: Path, *, comparisons: int = 3, repeats: int = 3) -> Bench:
    case = Case(shape=SHAPES["tiny"], batch=1)
    return Bench(CPU, [case], Budget.quick(), comparisons, repeats, False, {}, path / "log")


def test_false_alarms_fail_the_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.0, 0.1, 0.0])
    monkeypatch.setattr(Bench, "compare", lambda *_: found_of(next(losses)))
    told = sections.section_self(bench_of(tmp_path), time.monotonic() + 60)
    assert told["failures"] == ["1 of 3 comparisons raised a false alarm"]
    assert told["verdicts"] == {"SAME": 2, "SLOWER": 1}
    assert told["series_verdicts"]["marginal of state_update"] == {"SAME": 2, "SLOWER": 1}
    assert told["series_alarms"] == 2 and told["series_compared"] == 6
    assert any("SLOWER" in line for line in told["alarm_lines"])


def test_what_is_cut_short_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "compare", lambda *_: found_of(0.0))
    told = sections.section_self(bench_of(tmp_path), time.monotonic() - 1)
    assert told["comparisons"] == 1 and told["wanted"] == 3
    assert told["failures"] == ["time for 1 of 3 comparisons only"]


@pytest.mark.parametrize(
    ("planted", "loss", "failures"),
    [
        (0.10, 0.10, []),
        (
            0.05,
            0.01,
            ["a loss of 5.0%: 0 of 2 called SLOWER", "a loss of 5.0%: 0 of 2 named the cause"],
        ),
        (0.03, 0.01, []),
        (None, 0.01, []),
    ],
)
def test_losses_from_five_percent_on_must_be_found(
    planted: float | None, loss: float, failures: list[str]
) -> None:
    tally = LossTally(2, lambda why: why[0].startswith("stage: state_update"), planted)
    for seed in range(2):
        tally.add(found_of(loss, seed=seed))
    assert tally.failures() == failures
    assert tally.told()["ratio_of_whole"]["median"] == pytest.approx(1 + loss, abs=0.01)


def test_a_loss_without_its_cause_fails() -> None:
    tally = LossTally(1, sections._link_named)
    tally.add(found_of(0.1))
    assert tally.slower == 1 and tally.told()["why_unnamed"]
    assert tally.failures() == [f"a loss of {tally.loss:.1%}: 0 of 1 named the cause"]


def test_causes_are_told_from_each_other() -> None:
    stage = "stage: state_update +1.0 µs"
    lines = {
        sections._kernel_named: [stage, "graph: kernels spin (1,1,1): was absent, is 1"],
        sections._link_named: ["link lost: a -> b: 4 programmatic edges became 0"],
        sections._tile_named: [stage, "tuning: state_update block_head_dim: was 64, is 16"],
        sections._load_named: [
            stage,
            "kernel: _state_update_kernel: loads are narrower: were 4 of 16 bytes, are 32 of 2",
        ],
    }
    for named in lines:
        assert [other for other, why in lines.items() if named(why)] == [named]
        assert not named([stage])


def test_a_missing_wait_counts_by_what_caught_it() -> None:
    counts = WaitCounts()
    race = {"races": {"precompute": ["reads before it waits"]}}
    for gate in ("passed, largest error 1e-4", "FAILED, wrong"):
        found = found_of(-0.1, facts=race)
        found.gates["case"] = gate
        counts.add(found)
    refused = found_of(0.0)
    refused.series.clear()
    refused.failed["case"] = "failed on the new side: GateError: wrong"
    counts.add(refused)
    told = counts.told()["counts"]
    assert told["called FASTER"] == told["asked for the gate"] == 2
    assert told["held to be unsafe by the audit"] == 2 and told["refused by the gate"] == 1
    assert told["the gate asked for passed"] == told["the gate asked for failed"] == 1
    assert counts.failures() == [] and told["caught"] == 3
    missed = found_of(-0.1)
    missed.gates["case"] = "passed, largest error 1e-4"
    counts.add(missed)
    assert counts.failures() == ["3 of 4 caught"]
    counts.add(found_of(0.0, facts=race))
    assert counts.failures()[-1] == "4 of 5 were FASTER and asked for the gate, or refused"


def test_bounds_of_shares() -> None:
    assert at_most(0, 200) == pytest.approx(1 - 0.05 ** (1 / 200))
    assert at_most(4, 200) < 0.05 < at_most(5, 200) and at_most(3, 3) == 1.0
    assert at_least(20, 20) == pytest.approx(0.05 ** (1 / 20)) and at_least(0, 20) == 0.0


def test_the_budget_can_reach_a_verdict_on_eight_series() -> None:
    pairs = BUDGET.builds * BUDGET.blocks
    assert (
        8 * signed_rank_p(np.arange(1.0, pairs + 1)) < 0.05 < 8 * signed_rank_p(np.arange(1.0, 10))
    )


def test_a_spin_makes_up_for_its_launch() -> None:
    spinner = Spinner(launch_us=0.9, us_per_cycle=0.0005)
    assert spinner.cycles(1.9) == 2000 and spinner.cycles(0.5) == 1
    assert spinner.plant(1.9)[1] == 1.9 and spinner.plant(0.5)[1] == 0.9


def bound() -> tuple[Workload, BoundChain]:
    work = Workload(Case(shape=SHAPES["rank"], batch=1), CPU, Effort.quick())
    return work, BoundChain(work.cache, torch.zeros(1, dtype=torch.int32), 6)


def test_a_smaller_tile_is_looked_up_within_the_fault_alone() -> None:
    with faults.smaller_tile():
        work, chain = bound()
        for launch in (chosen_launch(work), chain._launch):
            assert launch.state_update == StateUpdateLaunch(16)
    with faults.smaller_tile():
        pass
    assert chosen_launch(work) == bound()[1]._launch != chain._launch


def test_an_unaligned_state_is_the_states_alone() -> None:
    with faults.unaligned_state():
        cache = bound()[0].cache
    assert cache.state.data_ptr() % 16 == cache.state.element_size() and cache.state.is_contiguous()
    assert cache.x_ring.data_ptr() % 16 == 0 and bound()[0].cache.state.data_ptr() % 16 == 0


def test_a_missing_wait_is_compiled_out_within_the_fault_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *given, **named: (grid, given, named)

    modules = {
        s: importlib.import_module(f"graphrt.kernels.{s}") for s in ("precompute", "state_update")
    }
    for stage, module in modules.items():
        monkeypatch.setattr(module, f"_{stage}_kernel", Kernel())

    def launched(stage: str) -> Any:
        return getattr(modules[stage], f"_{stage}_kernel")[(2,)](1, WAIT=True, launch_pdl=True)

    right = ((2,), (1,), {"WAIT": True, "launch_pdl": True})
    with faults.missing_wait("precompute")():
        assert launched("precompute") == ((2,), (1,), {"WAIT": False, "launch_pdl": True})
        assert launched("state_update") == right
    assert launched("precompute") == right
