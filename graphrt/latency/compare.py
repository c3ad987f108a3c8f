# SPDX-License-Identifier: Apache-2.0
"""Two recordings compared: a verdict for every series, and why those that moved did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from graphrt.latency.change import Change, measure_change
from graphrt.latency.effects import MinimumEffects
from graphrt.latency.machine import Machine, machine_differences, refuse_other_machine
from graphrt.latency.quantities import QUANTITIES, Key
from graphrt.latency.ranks import holm
from graphrt.latency.recording import CaseRecord, Recording
from graphrt.latency.verdict import Decision, Verdict, decide

_TAILS = (0.9, 0.99)


@dataclass(frozen=True, slots=True)
class SeriesResult:
    """One quantile of one series. minimum_effect: what it was judged by, as a share."""

    case: str
    key: Key
    quantile: float
    change: Change | None
    adjusted_p: float
    minimum_effect: float
    decision: Decision

    @property
    def name(self) -> str:
        """The series, with its percentile where that is not the median."""
        tail = "" if self.quantile == 0.5 else f" p{self.quantile * 100:g}"
        return f"{self.key}{tail}"

    @property
    def verdict(self) -> Verdict:
        """The verdict alone."""
        return self.decision.verdict


@dataclass(slots=True)
class Comparison:
    """Everything a comparison found.

    series: in the recordings' order. why: sentences by case, for those that moved. failed: cases
    that have no verdict, with the reason. gates: what the correctness gate said of cases that
    gained more than was predicted. differences: of the machines, when they were let pass. machines:
    what the yardsticks beside each case say of the machine. unsafe: races by case that only the
    new side's kernels have.
    """

    old: Recording
    new: Recording
    paired: bool
    predicted_gain: float
    differences: list[str]
    machines: dict[str, Machine] = field(default_factory=dict)
    series: list[SeriesResult] = field(default_factory=list)
    why: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    gates: dict[str, str] = field(default_factory=dict)
    unsafe: dict[str, list[str]] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """SLOWER if anything is, else FASTER, else UNDECIDED, else SAME."""
        found = {result.verdict for result in self.series}
        order = (Verdict.SLOWER, Verdict.FASTER, Verdict.UNDECIDED)
        return next((verdict for verdict in order if verdict in found), Verdict.SAME)

    @property
    def unpredicted(self) -> list[SeriesResult]:
        """What is faster than predicted: a race that skips a wait looks like this."""
        return [
            result
            for result in self.series
            if result.verdict is Verdict.FASTER
            and result.change is not None
            and 1 - result.change.ratio > self._most_gain(result)
        ]

    @property
    def passed(self) -> bool:
        """Nothing slower, failed or unsafe, and the gate passed where there was reason to ask."""
        asked = {result.case for result in self.unpredicted}
        return (
            self.verdict is not Verdict.SLOWER
            and not self.failed
            and not self.unsafe
            and all(self.gates.get(case, "").startswith("passed") for case in asked)
        )

    @property
    def noise(self) -> dict[Key, float]:
        """How far each yardstick may have drifted within a recording, where it did most."""
        found: dict[Key, float] = {}
        for machine in self.machines.values():
            for key, drift in machine.noise.items():
                found[key] = max(drift, found.get(key, 0.0))
        return dict(sorted(found.items()))

    def moved(self, case: str) -> list[SeriesResult]:
        """Return a case's series that are SLOWER or FASTER."""
        return [
            result
            for result in self.series
            if result.case == case and result.verdict in (Verdict.SLOWER, Verdict.FASTER)
        ]

    def _most_gain(self, result: SeriesResult) -> float:
        return self.predicted_gain + (result.minimum_effect if self.predicted_gain else 0.0)


def compare(
    old: Recording,
    new: Recording,
    *,
    effects: MinimumEffects | None = None,
    predicted_gain: float = 0.0,
    across: bool = False,
) -> Comparison:
    """Compare two recordings, pair by pair where they are of one run.

    predicted_gain: the share by which the change was expected to be faster. across: compare
    recordings of different machines, by ratios to the yardsticks recorded beside them. Raises
    ComparisonRefused for those otherwise. Swapping the sides gives the mirror image.
    """
    from graphrt.latency.why import explain, new_races

    effects = effects or MinimumEffects()
    paired = old.run == new.run
    differences = [] if paired else machine_differences(old, new)
    if differences and not across:
        refuse_other_machine(old, new)
    found = Comparison(old, new, paired, predicted_gain, differences)
    measured: list[tuple[str, Key, float, Change | None]] = []
    for name in _names(old, new):
        reason = _incomparable(old.cases.get(name), new.cases.get(name), paired)
        if reason:
            found.failed[name] = reason
            continue
        races = new_races(old.cases[name], new.cases[name])
        if races:
            found.unsafe[name] = races
        found.machines[name] = Machine.of(old.cases[name], new.cases[name])
        measured += [(name, *one) for one in _changes(old.cases[name], new.cases[name], paired)]
    adjusted = holm([1.0 if change is None else change.p for *_, change in measured])
    for (name, key, quantile, change), p in zip(measured, adjusted, strict=True):
        size = min(change.old_us, change.new_us) if change else 1.0
        least = effects.of(key.quantity, quantile, size)
        machine = found.machines[name]
        decision = _judge(change, p, least, key.quantity, machine, paired, bool(differences))
        found.series.append(SeriesResult(name, key, quantile, change, p, least, decision))
    for name in old.cases:
        if found.moved(name):
            found.why[name] = explain(found, name)
    return found


def _changes(
    old: CaseRecord, new: CaseRecord, paired: bool
) -> Iterator[tuple[Key, float, Change | None]]:
    for key in old.series:
        if key not in new.series:
            continue
        sides = old.array(key), new.array(key)
        for quantile in (0.5, *(_TAILS if QUANTITIES[key.quantity].tails else ())):
            yield key, quantile, measure_change(*sides, paired=paired, quantile=quantile)


def _judge(
    change: Change | None,
    p: float,
    least: float,
    quantity: str,
    machine: Machine,
    paired: bool,
    across: bool,
) -> Decision:
    if change is None or paired:
        return decide(change, p, least)
    if across:
        return _judge_ratios(change, p, least, quantity, machine)
    decision = decide(change, p, least)
    drifted = machine.drifted(quantity, least)
    for key, ratio in machine.relative(change, quantity).items():
        # What the machine did, or may have done, must not be what is called.
        called = decision.verdict in (Verdict.SLOWER, Verdict.FASTER)
        if not called and key not in drifted:
            continue
        holds = decide(ratio, p, least).verdict is decision.verdict
        if called and key in drifted:
            # Other work may have been slowed as much again: more than that must be left.
            holds &= abs(ratio.log_ratio) > abs(machine.moved[key].log_ratio)
        if not holds:
            what = "itself moved" if key in drifted else "may have moved itself"
            why = f"the machine {what}: {machine.told(key)}; record again, or take turns"
            return Decision(Verdict.UNDECIDED, why)
    return decision


def _judge_ratios(
    change: Change, p: float, least: float, quantity: str, machine: Machine
) -> Decision:
    ratios = machine.relative(change, quantity)
    if not ratios:
        return Decision(Verdict.UNDECIDED, "no yardstick was recorded on both machines")
    decisions = {key: decide(ratio, p, least) for key, ratio in ratios.items()}
    verdicts = {decision.verdict for decision in decisions.values()}
    told = ", ".join(
        f"{ratios[key].ratio:.3f} of {key.part if key.quantity == 'marginal' else key.quantity}"
        for key in ratios
    )
    if len(verdicts) == 1:
        return Decision(verdicts.pop(), f"relative to yardsticks: {told}")
    return Decision(Verdict.UNDECIDED, f"the yardsticks disagree: {told}")


def _names(old: Recording, new: Recording) -> Iterable[str]:
    return dict.fromkeys([*old.cases, *new.cases])


def _incomparable(old: CaseRecord | None, new: CaseRecord | None, paired: bool) -> str | None:
    for side, record in (("old", old), ("new", new)):
        if record is None:
            return f"the {side} recording does not have it"
        if record.failed:
            return f"failed on the {side} side: {record.failed}"
    assert old is not None and new is not None
    if not paired and old.what != new.what:
        odd = [
            name for name in {**old.what, **new.what} if old.what.get(name) != new.what.get(name)
        ]
        return f"its sizes differ: {', '.join(odd)}"
    if not set(old.series) & set(new.series):
        return "the recordings have no series in common"
    if paired and any(
        np.shape(old.series[key]) != np.shape(new.series[key])
        for key in set(old.series) & set(new.series)
    ):
        return "the sides of one run have differently many samples: one was cut off"
    return None
