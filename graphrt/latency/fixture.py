# SPDX-License-Identifier: Apache-2.0
"""What a test holds as ``latency``: measures, records, compares, and fails with the reasons."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from graphrt.bench.timing import Work
from graphrt.config import resolve_device
from graphrt.latency.budget import Budget
from graphrt.latency.compare import Comparison, compare
from graphrt.latency.effects import MinimumEffects
from graphrt.latency.files import load, parse, save
from graphrt.latency.interleave import LocalSide
from graphrt.latency.live import run_gate
from graphrt.latency.quantities import quantity
from graphrt.latency.recorder import record
from graphrt.latency.recording import Recording
from graphrt.latency.report import sentences
from graphrt.latency.subject import Build, GraphSubject
from graphrt.latency.yardsticks import Yardsticks

# Within a test suite less is sampled than by `graphrt latency record`.
_BUDGET = Budget(builds=4, blocks=6, steps=16, calls=16)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    compare: Path | None
    recording: bool
    effects: Sequence[str]
    device: str | None
    quick: bool


class Latency:
    """One test's measurements. device: where they are made. recorded: what has been measured."""

    def __init__(self, item: pytest.Item, options: Options) -> None:
        """Read the marker. Skips the test if the quantities it asks for need a GPU."""
        self._item, self._options = item, options
        marker = item.get_closest_marker("latency")
        self._told = dict(marker.kwargs) if marker else {}
        self.device = resolve_device(options.device)
        self.recorded: list[Recording] = []
        self._wanted = self._told.get("quantities")
        if self._wanted is not None and self.device.type != "cuda":
            missing = [name for name in self._wanted if quantity(name).needs_gpu]
            if missing:
                pytest.skip(f"{', '.join(missing)}: needs a CUDA device, torch sees none")

    def measure(
        self,
        work: Work,
        name: str = "",
        *,
        parts: Mapping[str, Work] | None = None,
        step: Work | None = None,
        gate: Callable[[], object] | None = None,
    ) -> Recording:
        """Measure ``work``, captured into a graph; see `GraphSubject` for the rest.

        name: tells several measurements of one test apart. Fails the test if it is slower than the
        baseline, or faster than was predicted without a gate that passes.
        """
        device, budget = self.device, self._budget

        def build() -> GraphSubject:
            return GraphSubject(work, device, budget, parts=parts, step=step, gate=gate)

        return self.measure_built(build, name)

    def measure_built(self, build: Build, name: str = "") -> Recording:
        """Measure what ``build`` makes anew several times: a `Subject` of any kind."""
        __tracebackhide__ = True
        case = f"{self._item.nodeid}{f' [{name}]' if name else ''}"
        with contextlib.closing(Yardsticks(self.device)) as yardsticks:
            side = LocalSide("now", {case: build}, yardsticks, self._wanted)
            (found,) = record([side], [case], self.device, self._budget)
            if found.cases[case].failed:
                pytest.fail(f"{case}: {found.cases[case].failed}", pytrace=False)
            self.recorded.append(found)
            if self._options.compare is not None:
                self._compare(self._options.compare, found, side, case)
        return found

    @property
    def _budget(self) -> Budget:
        return Budget.quick() if self._options.quick else _BUDGET

    def _compare(self, path: Path, found: Recording, side: LocalSide, case: str) -> None:
        __tracebackhide__ = True
        baseline = load(path)
        if case not in baseline.cases:
            told = f"{case}: not in {path.name}: record it again"
            self._item.add_report_section("call", "latency", told)
            return
        effects = MinimumEffects.parse(self._options.effects)
        if self._told.get("minimum_effect") is not None:
            effects = replace(effects, everything=self._told["minimum_effect"])
        compared = compare(
            replace(baseline, cases={case: baseline.cases[case]}),
            found,
            effects=effects,
            predicted_gain=self._told.get("predicted_gain", 0.0),
        )
        if compared.unpredicted:
            compared.gates[case] = run_gate(side, case)
        self._say(compared, case)

    def _say(self, compared: Comparison, case: str) -> None:
        __tracebackhide__ = True
        if not compared.passed:
            pytest.fail(
                "\n".join(
                    [
                        f"latency against {compared.old.label}: {compared.verdict}",
                        *sentences(compared),
                        "accept it with --latency-record, or mend it; docs/latency.md tells more",
                    ]
                ),
                pytrace=False,
            )
        self._item.add_report_section("call", "latency", f"{case}: {compared.verdict}")


def write_merged(recorded: Sequence[str], path: Path) -> None:
    """Write one recording of all that tests recorded, as JSON, into ``path``.

    The first one's conditions are the file's: all were made in one session on one machine.
    """
    found = [parse(json.loads(text), path.name) for text in recorded]
    merged = replace(found[0], label=path.stem, cases={}, complete=True)
    for one in found:
        merged.cases |= one.cases
        merged.clocks |= one.clocks
    save(merged, path)
