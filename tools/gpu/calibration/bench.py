# SPDX-License-Identifier: Apache-2.0
"""The comparison that is calibrated: small enough to be made hundreds of times, and whole.

Everything is allocated and captured anew on both sides for every build, the sides take turns, the
gate runs, and the verdicts are those of `graphrt.latency.compare`. Left out is what such sides do
not decide by: the host's quantities, the yardsticks, and nvidia-smi before and after.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphrt.bench.cases import Case
from graphrt.latency.budget import Budget
from graphrt.latency.chain import Planted, case_name, chain_builder
from graphrt.latency.compare import Comparison, compare
from graphrt.latency.interleave import LocalSide, Side, take_case
from graphrt.latency.live import ask_gates
from graphrt.latency.quantities import WHOLE, Key
from graphrt.latency.recording import Recording
from graphrt.latency.report import as_json
from graphrt.latency.subject import Subject
from tools.gpu.calibration import faults
from tools.gpu.calibration.timed_side import Seconds, TimedSide, timed

QUANTITIES = ("marginal", "gpu_span", "cpu_part")  # the last only where there is no GPU
BUDGET = Budget(builds=3, blocks=4, launches=4, marginals=1, calls=8)
"""Twelve pairs of blocks: p of the rank test can be 0.0025, 0.02 when adjusted for eight series."""


@dataclass(slots=True)
class Bench:
    """What the sections share.

    cases: the smallest batch first; most is done at that. comparisons, repeats: how many are wanted
    of the code with itself, and of each fault. conditions: this process's. log: gets every
    comparison as a line of JSON. seconds: where the time of comparisons went.
    """

    device: torch.device
    cases: list[Case]
    budget: Budget
    comparisons: int
    repeats: int
    quick: bool
    conditions: dict[str, Any]
    log: Path
    seconds: Seconds = field(default_factory=lambda: defaultdict(float))
    compared: int = 0

    def side(
        self,
        label: str,
        case: Case,
        *,
        fault: faults.Fault = faults.none,
        planted: Planted | None = None,
    ) -> Side:
        """Return a side that builds ``case`` within ``fault``, or with ``planted``."""
        builder = self._builder(case, fault, planted)
        side = LocalSide(label, {case_name(case): builder}, None, QUANTITIES)
        return TimedSide(side, self.seconds)

    def compare(self, old: Side, new: Side, case: Case) -> Comparison:
        """Compare two sides of one case, and run the gate again where the new one gains."""
        name, run = case_name(case), secrets.token_hex(8)
        taken = take_case((old, new), name, self.budget)
        recordings = [
            Recording(
                label=side.label,
                run=run,
                device=str(self.device),
                conditions=self.conditions,
                settings=self.budget.contract(),
                cases={name: one},
                complete=True,
            )
            for side, one in zip((old, new), taken, strict=True)
        ]
        with timed(self.seconds, "judge"):
            found = compare(*recordings)
        with timed(self.seconds, "gate again"):
            ask_gates(found, new)
        self.compared += 1
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(as_json(found)) + "\n")
        return found

    def chain_us(self, case: Case, fault: faults.Fault = faults.none) -> float:
        """Return the chain's marginal cost in one build within ``fault``."""
        subject = self._builder(case, fault, None)()
        with contextlib.closing(subject):
            samplers = subject.samplers()
            key = Key("marginal" if self.device.type == "cuda" else "cpu_part", WHOLE)
            taken = [
                sample for _ in range(2 * self.budget.blocks) for sample in samplers[key].take()
            ]
        return statistics.median(taken)

    def repeated(
        self, wanted: int, until: float, once: Callable[[], Comparison]
    ) -> Iterator[Comparison]:
        """Yield comparisons until there are as many as wanted, or it is too late; at least one."""
        for number in range(wanted):
            if number and time.monotonic() >= until:
                return
            yield once()

    def judged(self, failures: list[str]) -> list[str]:
        """Return the failures of verdicts: none where the counts are too tiny to mean anything."""
        return [] if self.quick else failures

    def _builder(
        self, case: Case, fault: faults.Fault, planted: Planted | None
    ) -> Callable[[], Subject]:
        build = chain_builder(case, self.device, self.budget, planted, QUANTITIES)
        return lambda: faults.FaultySubject(fault, build)
