# SPDX-License-Identifier: Apache-2.0
"""The sections of tools/latency_gpu: each tries one promise of the latency harness."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch

from graphrt.bench.cases import Case
from graphrt.bench.conditions import REPOSITORY
from graphrt.bench.stages import LONGEST, longest_stage
from graphrt.latency.budget import Budget
from graphrt.latency.cases import with_settings
from graphrt.latency.chain import Planted, case_name, chain_builder
from graphrt.latency.compare import Comparison, compare
from graphrt.latency.files import load
from graphrt.latency.interleave import LocalSide
from graphrt.latency.live import compare_live
from graphrt.latency.recorder import record
from graphrt.latency.remote import RemoteSide
from graphrt.latency.report import as_json, sentences
from graphrt.latency.verdict import Verdict
from graphrt.latency.yardsticks import Yardsticks
from tools.gpu.spinner import measure_spinner

_ALARMS = (Verdict.SLOWER, Verdict.FASTER)


@dataclass(slots=True)
class Trial:
    """What the sections share. fast: of repeated comparisons. times: of stages, once recorded."""

    device: torch.device
    out: Path
    cases: list[Case]
    budget: Budget
    fast: Budget
    yardsticks: Yardsticks
    deadline: float
    planted_shares: Sequence[float]
    quick: bool
    stage_us: dict[str, float] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The cases' names."""
        return [case_name(case) for case in self.cases]

    def judged(self, failures: list[str]) -> list[str]:
        """Return the failures of verdicts: none where the counts are too tiny to mean anything."""
        return [] if self.quick else failures

    def side(self, label: str, cases: Sequence[Case], budget: Budget, **more: Any) -> LocalSide:
        """Return a side of this process."""
        builders = {
            case_name(case): chain_builder(case, self.device, budget, **more) for case in cases
        }
        return LocalSide(label, builders, self.yardsticks)


def section_record(trial: Trial) -> dict[str, Any]:
    """Record twice, read both back, compare."""
    files = [trial.out / f"recording-{number}.json" for number in (1, 2)]
    seconds = []
    for file in files:
        begin = time.perf_counter()
        side = trial.side(file.stem, trial.cases, trial.budget)
        record([side], trial.names, trial.device, trial.budget, save_to=[file])
        seconds.append(round(time.perf_counter() - begin, 1))
    old, new = map(load, files)
    for name, case in old.cases.items():
        for key in case.series:
            if key.part in LONGEST:
                trial.stage_us[name] = float(torch.tensor(case.series[key]).median())
    return {"seconds_each": seconds, **_told(compare(old, new), alarms_fail=not trial.quick)}


def section_self(trial: Trial) -> dict[str, Any]:
    """Compare the smallest case with itself for as long as is left, at least three times."""
    alarms: list[str] = []
    counts: Counter[str] = Counter()
    comparisons, case = 0, trial.cases[0]
    while comparisons < (1 if trial.quick else 3) or (
        not trial.quick and time.monotonic() < trial.deadline
    ):
        sides = (trial.side("a", [case], trial.fast), trial.side("b", [case], trial.fast))
        found = compare_live(sides, [case_name(case)], trial.device, trial.fast)
        comparisons += 1
        counts.update(result.verdict for result in found.series)
        alarms += [
            line
            for result in found.series
            if result.verdict in _ALARMS
            for line in sentences(found)
        ]
    return {
        "failures": trial.judged([f"false alarm: {line}" for line in alarms]),
        "comparisons": comparisons,
        "series_verdicts": dict(counts),
        "alarms": len(alarms),
    }


def section_planted(trial: Trial) -> dict[str, Any]:
    """Plant a spinning kernel after the longest stage: with its launch, a share of that stage."""
    failures, found = [], []
    case = trial.cases[-1]
    name, stage = case_name(case), longest_stage(case, trial.device)
    stage_us = trial.stage_us.get(name, 30.0)
    spinner = measure_spinner(trial.device)
    for share in trial.planted_shares:
        spin, spin_us = spinner.plant(share * stage_us)
        sides = (
            trial.side("as it is", [case], trial.fast),
            trial.side(f"planted {share:.0%}", [case], trial.fast, planted=Planted(stage, spin)),
        )
        compared = compare_live(sides, [name], trial.device, trial.fast)
        told = _told(compared)
        told |= {"share_of_stage": share, "spin_us": spin_us, "stage_us": stage_us}
        found.append(told)
        if compared.verdict is not Verdict.SLOWER:
            failures.append(f"planted {share:.0%}: {compared.verdict}")
        elif not any(line.startswith(f"stage: {stage}") for line in compared.why[name]):
            failures.append(f"planted {share:.0%}: the stage is not named: {compared.why[name]}")
    return {
        "failures": trial.judged(failures),
        "spinner_launch_us": round(spinner.launch_us, 3),
        "found": found,
    }


def section_pdl(trial: Trial) -> dict[str, Any]:
    """Compare PDL on with PDL off, and in the other order."""
    case = trial.cases[0]
    name, off = case_name(case), with_settings(case, ["pdl=off"])
    on_side, off_side = (
        trial.side("pdl on", [case], trial.fast),
        trial.side("pdl off", [off], trial.fast),
    )
    there = compare_live((on_side, off_side), [name], trial.device, trial.fast)
    back = compare_live((off_side, on_side), [name], trial.device, trial.fast)
    failures = []
    if there.verdict is not Verdict.SLOWER:
        failures.append(f"on → off: {there.verdict}")
    elif not any(line.startswith("link lost") for line in there.why[name]):
        failures.append(f"on → off: no lost link is named: {there.why[name]}")
    if Verdict.FASTER not in {result.verdict for result in back.series}:
        failures.append(f"off → on: {back.verdict}")
    elif not back.gates.get(name, "").startswith("passed"):
        failures.append(f"off → on: the gate was not asked again, or failed: {back.gates}")
    return {
        "failures": trial.judged(failures),
        "on_off": _told(there),
        "off_on": _told(back),
    }


def section_commits(trial: Trial) -> dict[str, Any]:
    """Compare this tree with itself, each side in a process of its own."""
    case, budget = trial.cases[0], replace(trial.fast, builds=min(trial.fast.builds, 3))
    cases = {case_name(case): case}
    with contextlib.ExitStack() as stack:
        old, new = (
            stack.enter_context(RemoteSide(label, REPOSITORY, cases, trial.device, budget))
            for label in ("a", "b")
        )
        found = compare_live(
            (old, new),
            list(cases),
            trial.device,
            budget,
            each_conditions=[old.conditions, new.conditions],
        )
    return _told(found, alarms_fail=not trial.quick)


_TEST_FILE = """
import os, pytest, torch

SPIN = int(os.environ.get("SPIN_CYCLES", "0"))  # of the larger size alone

@pytest.mark.latency(minimum_effect=0.05)
@pytest.mark.parametrize("size", [256, 512])
def test_product(latency, size):
    a = torch.randn(size, size, device=latency.device)
    def work():
        for _ in range(4):
            torch.mm(a, a, out=out)
        if SPIN and size == 512:
            torch.cuda._sleep(SPIN) if latency.device.type == "cuda" else torch.mm(a, a, out=out)
    out = torch.empty_like(a)
    latency.measure(work)

@pytest.mark.latency(quantities=["gpu_span"])
def test_needs_a_gpu(latency):
    x = torch.ones(1 << 20, device=latency.device)
    latency.measure(lambda: x.add_(1.0))
"""


def section_pytest(trial: Trial) -> dict[str, Any]:
    """Run the plugin: record, then compare with a loss in one of three tests: it alone fails."""
    folder = trial.out / "pytest"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "test_example.py").write_text(_TEST_FILE, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
    common = ["--latency-quick"] if trial.quick else []
    common += ["--latency-device", str(trial.device)] if trial.device.type == "cpu" else []
    runs = {
        "record": (["--latency-record", "base.json"], 0, 0),
        "planted": (["--latency-compare", "base.json"], 20_000, 1),
    }
    failures, told = [], {}
    for name, (options, spin, expected) in runs.items():
        done = _pytest([*common, *options], folder, spin)
        told[name] = {"rc": done.returncode, "tail": done.stdout.splitlines()[-40:]}
        if done.returncode != expected and not (trial.quick and name == "planted"):
            failures.append(f"{name}: exit code {done.returncode}, expected {expected}")
        if name == "planted" and "1 failed, 2 passed" not in done.stdout and not trial.quick:
            failures.append(f"{name}: {done.stdout.splitlines()[-1:]}, expected 1 failed, 2 passed")
    return {"failures": failures, "runs": told}


def _pytest(options: Sequence[str], folder: Path, spin: int) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    plugin = [] if _installed_plugin() else ["-p", "graphrt.latency.plugin"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-q", *plugin, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "SPIN_CYCLES": str(spin)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def _installed_plugin() -> bool:
    return any(point.value == "graphrt.latency.plugin" for point in entry_points(group="pytest11"))


def _told(found: Comparison, *, alarms_fail: bool = False) -> dict[str, Any]:
    lines = sentences(found)
    failures = [line for line in lines] if alarms_fail and found.verdict in _ALARMS else []
    failures += [f"{case}: {reason}" for case, reason in found.failed.items()]
    return {"failures": failures, "sentences": lines, "comparison": as_json(found)}


SECTIONS: dict[str, Callable[[Trial], dict[str, Any]]] = {
    "record": section_record,
    "planted": section_planted,
    "pdl": section_pdl,
    "pytest": section_pytest,
    "commits": section_commits,
    "self": section_self,
}
