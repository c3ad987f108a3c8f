# SPDX-License-Identifier: Apache-2.0
"""The section whose fault is a gain: a chain that does not wait for what it reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from graphrt.bench.stages import longest_stage
from graphrt.latency.compare import Comparison
from graphrt.latency.verdict import Verdict
from tools.gpu.calibration import faults
from tools.gpu.calibration.bench import Bench
from tools.gpu.calibration.tally import (
    LEAST_FOUND,
    ratios_of_whole,
    share,
    spread,
    too_few,
    wholes,
)

_CLEAR_GAIN = 0.05
_PAIR = (("precompute",), ("state_update",), ("precompute", "state_update"))
_ONE: dict[str, tuple[tuple[str, ...], ...]] = {
    "fused": (("fused",),),
    "single": (("single",),),
}


def section_wait(bench: Bench, until: float) -> dict[str, Any]:
    """Leave waits out: faster, and wrong.

    Which waits: the first of a few choices that gains clearly, else the one that gains most. It is
    caught where the comparison does not pass: refused by the gate, or held to be unsafe by the
    audit, or failed by the gate that a gain asks for.
    """
    case = bench.cases[0]
    right_us = bench.chain_us(case)
    choices = _ONE.get(longest_stage(case, bench.device), _PAIR)
    gains = {w: 1 - bench.chain_us(case, faults.missing_wait(*w)) / right_us for w in choices}
    clear = (waits for waits in choices if gains[waits] >= _CLEAR_GAIN)
    waits = next(clear, max(gains, key=lambda one: gains[one]))
    fault, counts = faults.missing_wait(*waits), WaitCounts()

    def once() -> Comparison:
        old, new = bench.side("waits", case), bench.side("does not", case, fault=fault)
        return bench.compare(old, new, case)

    for found in bench.repeated(bench.repeats, until, once):
        counts.add(found)
    failures = too_few(counts.done, bench.repeats) + counts.failures()
    return {
        "failures": bench.judged(failures),
        "batch": case.batch,
        "gains_beforehand": {" and ".join(w): round(gain, 4) for w, gain in gains.items()},
        "without_wait": " and ".join(waits),
        "wanted": bench.repeats,
        **counts.told(),
    }


@dataclass(slots=True)
class WaitCounts:
    """By what a missing wait was caught. counts: of comparisons, several of which may be one."""

    done: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    ratios: list[float] = field(default_factory=list)
    why: list[str] = field(default_factory=list)

    def add(self, found: Comparison) -> None:
        """Count one."""
        self.done += 1
        faster = any(result.verdict is Verdict.FASTER for result in wholes(found))
        refused = any("GateError" in reason for reason in found.failed.values())
        gate = next(iter(found.gates.values()), "")
        self.counts["not compared for another reason"] += bool(found.failed) and not refused
        self.counts["refused by the gate"] += refused
        self.counts["called FASTER"] += faster
        self.counts["asked for the gate"] += bool(found.unpredicted)
        self.counts["the gate asked for passed"] += gate.startswith("passed")
        self.counts["the gate asked for failed"] += gate.startswith("FAILED")
        self.counts["held to be unsafe by the audit"] += bool(found.unsafe)
        self.counts["caught"] += refused or (not found.failed and not found.passed)
        self.counts["asked or refused"] += refused or (faster and bool(found.unpredicted))
        self.ratios += ratios_of_whole(found)
        if not self.why:
            self.why = [line for lines in found.why.values() for line in lines]

    def failures(self) -> list[str]:
        """Return what is not as promised: all caught, and the gain seen in nearly all."""
        found = []
        if self.counts["caught"] < self.done:
            found.append(f"{self.counts['caught']} of {self.done} caught")
        asked = self.counts["asked or refused"]
        if asked < LEAST_FOUND * self.done:
            found.append(f"{asked} of {self.done} were FASTER and asked for the gate, or refused")
        return found

    def told(self) -> dict[str, Any]:
        """Return the figures, and the sentences of the first that has any."""
        return {
            "comparisons": self.done,
            "counts": dict(self.counts),
            "caught_share": share(self.counts["caught"], self.done),
            "ratio_of_whole": spread(self.ratios),
            "why": self.why,
        }
