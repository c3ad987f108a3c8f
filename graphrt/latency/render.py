# SPDX-License-Identifier: Apache-2.0
"""The tables a person reads on a terminal."""

from __future__ import annotations

import math

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphrt.latency.compare import Comparison, SeriesResult
from graphrt.latency.recording import Recording
from graphrt.latency.report import gate_sentences
from graphrt.latency.verdict import Verdict

_STYLES = {Verdict.SLOWER: "bold red", Verdict.FASTER: "bold green", Verdict.UNDECIDED: "yellow"}


def comparison_tables(found: Comparison, *, everything: bool = False) -> RenderableType:
    """Return the verdicts, why, and the machine. everything: also series that are SAME."""
    shown = [r for r in found.series if everything or r.verdict is not Verdict.SAME]
    parts: list[RenderableType] = []
    if shown:
        parts.append(_verdicts(found, shown))
    for case, reasons in found.why.items():
        parts += [Text(f"why {case}"), *(Text(f"    {reason}") for reason in reasons)]
    parts += [Text(f"{case}: not compared, {why}") for case, why in found.failed.items()]
    parts += [Text(line, style="bold") for line in gate_sentences(found)]
    parts += _undecided(shown)
    parts += [Text(f"machines differ: {line}") for line in found.differences]
    parts.append(Text(_summary(found), style=_STYLES.get(found.verdict, "bold")))
    return Group(*parts)


def recording_table(recording: Recording) -> RenderableType:
    """Return p50, p90, p99 of every series."""
    commit = (recording.conditions.get("commit") or {}).get("hash")
    gpu = (recording.conditions.get("gpu") or {}).get("name") or recording.device
    table = Table(title=f"{recording.label}, {gpu}, commit {commit}", title_justify="left")
    for name in ("case", "series", "p50 µs", "p90", "p99", "samples"):
        table.add_column(name, justify="left" if name in ("case", "series") else "right")
    for case in recording.cases.values():
        if case.failed:
            table.add_row(case.name, f"failed: {case.failed}")
        named = [(str(key), samples) for key, samples in case.series.items()]
        named += [(f"yardstick: {key}", samples) for key, samples in case.yardsticks.items()]
        for name, taken in named:
            samples = np.asarray(taken)
            found = np.quantile(samples, [0.5, 0.9, 0.99])
            table.add_row(case.name, name, *(f"{us:.2f}" for us in found), str(samples.size))
    return table


def _verdicts(found: Comparison, shown: list[SeriesResult]) -> Table:
    table = Table(title=f"{found.old.label} → {found.new.label}", title_justify="left")
    for name in ("case", "series", "old µs", "new µs", "change", "95 % interval", "p", "verdict"):
        left = name in ("case", "series", "verdict")
        table.add_column(name, justify="left" if left else "right")
    for result in shown:
        change = result.change
        numbers = ["-"] * 5
        if change is not None:
            numbers = [
                f"{change.old_us:.2f}",
                f"{change.new_us:.2f}",
                f"{change.ratio - 1:+.1%}",
                f"{math.expm1(change.low):+.1%} … {math.expm1(change.high):+.1%}",
                f"{result.adjusted_p:.1g}",
            ]
        verdict = Text(result.verdict, style=_STYLES.get(result.verdict, ""))
        table.add_row(result.case, result.name, *numbers, verdict)
    return table


def _undecided(shown: list[SeriesResult]) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for result in shown:
        if result.verdict is not Verdict.UNDECIDED:
            continue
        more = result.decision.more_samples
        settle = f"; about {more} more samples a side would settle it" if more else ""
        lines.append(Text(f"{result.case}: {result.name}: {result.decision.reason}{settle}"))
    return lines


def _summary(found: Comparison) -> str:
    counts = {verdict: 0 for verdict in Verdict}
    for result in found.series:
        counts[result.verdict] += 1
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    how = "taken in turns" if found.paired else "recorded apart"
    noise = ", ".join(
        f"{key} ±{value:.1%}" for key, value in found.noise.items() if math.isfinite(value)
    )
    return f"{found.verdict}: {told or 'no series'}; {how}; noise of the machine: {noise or '-'}"
