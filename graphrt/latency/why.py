# SPDX-License-Identifier: Apache-2.0
"""Why a case moved: the stage that did, and whatever else is different between the two sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from graphrt.latency.fingerprint import differences, lost_links
from graphrt.latency.quantities import WHOLE
from graphrt.latency.recording import CaseRecord, Recording
from graphrt.latency.verdict import Verdict

if TYPE_CHECKING:
    from graphrt.latency.compare import Comparison, SeriesResult

_MOST_LINES = 8  # of any one kind of difference
_PARTS = ("marginal", "cpu_part")
_VERSIONS = ("graphrt", "python", "torch", "triton", "cuda_bindings", "cuda")
# NVML's reasons for clocks lower than asked for; idle and settings of applications left out.
_THROTTLES = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal, software",
    0x40: "thermal, hardware",
    0x80: "power brake",
}


def explain(comparison: Comparison, case: str) -> list[str]:
    """Return sentences about what moved in ``case`` and what else changed, likeliest first."""
    old, new = comparison.old.cases[case], comparison.new.cases[case]
    lines = list(_stages(comparison, case))
    stages = len(lines)
    lines += [f"race: {line}" for line in new_races(old, new)]
    lines += [f"link lost: {line}" for line in lost_links(*_both(old, new, "fingerprint"))]
    lines += [f"configuration: {line}" for line in _few(old.what, new.what)]
    lines += [f"tuning: {line}" for line in _few(*_both(old, new, "tuning"))]
    lines += [f"kernel: {line}" for line in islice(_static(old, new), _MOST_LINES)]
    lines += [f"graph: {line}" for line in _few(*_both(old, new, "fingerprint"))]
    lines += [f"version: {line}" for line in _versions(comparison.old, comparison.new)]
    lines += [f"clocks: {line}" for line in _clocks(comparison.old, comparison.new)]
    if len(lines) == stages:
        lines.append("nothing else that is recorded differs between the two sides")
    return lines


def new_races(old: CaseRecord, new: CaseRecord) -> list[str]:
    """Return what the audit holds against the new side's kernels, and not against the old one's."""
    was, now = _both(old, new, "races")
    if "unavailable" in was or "unavailable" in now:
        return []
    return [
        f"{stage}: {line}"
        for stage, lines in now.items()
        for line in lines
        if line not in was.get(stage, [])
    ]


def moved_stages(comparison: Comparison, case: str) -> list[SeriesResult]:
    """Return the parts of a case that moved as its whole did, by how many microseconds."""
    return sorted(
        (
            result
            for result in comparison.moved(case)
            if result.key.quantity in _PARTS and result.key.part != WHOLE
        ),
        key=lambda result: -abs(_delta(result)),
    )


def _stages(comparison: Comparison, case: str) -> Iterator[str]:
    parts = [
        result
        for result in comparison.series
        if result.case == case and result.key.quantity in _PARTS and result.change is not None
    ]
    whole = next((result for result in parts if result.key.part == WHOLE), None)
    for stage in moved_stages(comparison, case):
        share = ""
        if whole is not None and whole.verdict is stage.verdict:
            share = f", of the whole's {_delta(whole):+.2f} µs"
        yield f"stage: {stage.key.part} {_delta(stage):+.2f} µs{share}"
    if whole is None or moved_stages(comparison, case):
        return
    stages = [result for result in parts if result.key.part != WHOLE]
    if stages and whole.verdict in (Verdict.SLOWER, Verdict.FASTER):
        largest = max(stages, key=lambda result: abs(_delta(result)))
        yield (
            "stage: none moved clear of its minimum; the largest difference is "
            f"{largest.key.part} {_delta(largest):+.2f} µs"
        )


def _delta(result: SeriesResult) -> float:
    change = result.change
    return 0.0 if change is None else change.new_us - change.old_us


def _both(old: CaseRecord, new: CaseRecord, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return old.facts.get(name) or {}, new.facts.get(name) or {}


def _few(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = differences(old, new)
    if len(found) > _MOST_LINES:
        found = [*found[:_MOST_LINES], f"and {len(found) - _MOST_LINES} more differences"]
    return found


def _static(old: CaseRecord, new: CaseRecord) -> Iterator[str]:
    from graphrt.kernels.static_facts import differences as static_differences
    from graphrt.latency.access_widths import narrower

    was, now = _both(old, new, "static")
    for kernel in sorted(was.keys() & now.keys()):
        if "unavailable" in was[kernel] or "unavailable" in now[kernel]:
            continue
        for line in narrower(was[kernel], now[kernel]):
            yield f"{kernel}: {line}"
        for line in static_differences(was[kernel], now[kernel]):
            yield f"{kernel}: {line}"


def _versions(old: Recording, new: Recording) -> Iterator[str]:
    for name in _VERSIONS:
        yield from differences(old.conditions.get(name), new.conditions.get(name), name)
    commits = [_commit(side) for side in (old, new)]
    if commits[0] != commits[1]:
        yield f"commit: was {commits[0]}, is {commits[1]}"


def _commit(recording: Recording) -> str:
    commit = recording.conditions.get("commit") or {}
    dirty = " with changes" if commit.get("dirty") else ""
    return f"{str(commit.get('hash'))[:12]}{dirty}"


def _clocks(old: Recording, new: Recording) -> Iterator[str]:
    if old.run == new.run:
        return  # they shared every moment
    for name in ("clocks.sm", "clocks.mem"):
        was, now = (_over_time(side, name) for side in (old, new))
        if was != now:
            yield f"{name}: was {was}, is {now}"
    reasons = [_throttles(side) for side in (old, new)]
    if reasons[0] != reasons[1]:
        yield "throttled by: was {}, is {}".format(
            *(", ".join(sorted(side)) or "nothing" for side in reasons)
        )


def _over_time(recording: Recording, name: str) -> str:
    found = {moment[name] for moment in recording.clocks.values() if name in moment}
    return ", ".join(sorted(found)) or "unknown"


def _throttles(recording: Recording) -> set[str]:
    found: set[str] = set()
    for moment in recording.clocks.values():
        try:
            bits = int(moment.get("clocks_event_reasons.active", "0"), 16)
        except ValueError:
            continue
        found |= {name for bit, name in _THROTTLES.items() if bits & bit}
    return found
