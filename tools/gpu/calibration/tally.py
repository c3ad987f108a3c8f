# SPDX-License-Identifier: Apache-2.0
"""What many comparisons of one kind came to, and whether that is what was promised."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from graphrt.latency.compare import Comparison, SeriesResult
from graphrt.latency.quantities import WHOLE
from graphrt.latency.report import sentences
from graphrt.latency.verdict import Verdict
from tools.gpu.calibration.shares import CONFIDENCE, at_least, at_most

MOST_ALARMS = 0.05
LEAST_FOUND = 0.95
LEAST_LOSS = 0.05
"""From this loss on, a share of LEAST_FOUND must be called SLOWER."""

_ALARMS = (Verdict.SLOWER, Verdict.FASTER)
_MOST_LINES = 20

Named = Callable[[list[str]], bool]
"""Whether the sentences of ``why`` name the cause."""


@dataclass(slots=True)
class SelfTally:
    """Comparisons of the code with itself: all that is SLOWER or FASTER is a false alarm."""

    wanted: int
    done: int = 0
    alarms: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    series: dict[str, Counter[str]] = field(default_factory=dict)
    ratios: list[float] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(self, found: Comparison) -> None:
        """Count one."""
        self.done += 1
        self.failed += found.failed.values()
        self.verdicts["not compared" if found.failed else found.verdict] += 1
        for result in found.series:
            self.series.setdefault(result.name, Counter())[result.verdict] += 1
        if found.verdict in _ALARMS:
            self.alarms += 1
            self.lines += sentences(found)
        self.ratios += ratios_of_whole(found)

    def failures(self) -> list[str]:
        """Return what is not as promised."""
        found = too_few(self.done, self.wanted)
        if self.alarms > MOST_ALARMS * self.done:
            found.append(f"{self.alarms} of {self.done} comparisons raised a false alarm")
        if self.failed:
            found.append(f"{len(self.failed)} were not compared: {self.failed[0]}")
        return found

    def told(self) -> dict[str, Any]:
        """Return the figures."""
        calls = sum(sum(counts.values()) for counts in self.series.values())
        alarms = sum(sum(counts[v] for v in _ALARMS) for counts in self.series.values())
        return {
            "wanted": self.wanted,
            "comparisons": self.done,
            "verdicts": dict(self.verdicts),
            "alarms": self.alarms,
            "alarm_share": share(self.alarms, self.done),
            "alarm_share_at_most": round(at_most(self.alarms, self.done), 4),
            "confidence": CONFIDENCE,
            "series_verdicts": {name: dict(counts) for name, counts in self.series.items()},
            "series_compared": calls,
            "series_alarms": alarms,
            "series_alarm_share": share(alarms, calls),
            "ratio_of_whole": spread(self.ratios),
            "alarm_lines": self.lines[:_MOST_LINES],
        }


@dataclass(slots=True)
class LossTally:
    """Comparisons with one planted loss. planted: its share of the whole, None: not known."""

    wanted: int
    named_by: Named
    planted: float | None = None
    done: int = 0
    slower: int = 0
    whole_slower: int = 0
    named: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    ratios: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)

    def add(self, found: Comparison) -> None:
        """Count one."""
        self.done += 1
        self.failed += found.failed.values()
        self.verdicts["not compared" if found.failed else found.verdict] += 1
        self.ratios += ratios_of_whole(found)
        self.whole_slower += any(r.verdict is Verdict.SLOWER for r in wholes(found))
        if found.verdict is not Verdict.SLOWER:
            return
        self.slower += 1
        why = [line for lines in found.why.values() for line in lines]
        if self.named_by(why):
            self.named += 1
            self.why = self.why or why
        else:
            self.unnamed = self.unnamed or why

    @property
    def loss(self) -> float:
        """The share that was planted, or else the median of what was measured."""
        if self.planted is not None:
            return self.planted
        return statistics.median(self.ratios) - 1 if self.ratios else 0.0

    @property
    def must_be_found(self) -> bool:
        """Whether it is large enough for a promise."""
        return self.loss >= LEAST_LOSS - 1e-9

    def failures(self) -> list[str]:
        """Return what is not as promised."""
        found = too_few(self.done, self.wanted)
        if self.must_be_found:
            for what, count in (("called SLOWER", self.slower), ("named the cause", self.named)):
                if count < LEAST_FOUND * self.done:
                    found.append(f"a loss of {self.loss:.1%}: {count} of {self.done} {what}")
        if self.failed:
            found.append(f"{len(self.failed)} were not compared: {self.failed[0]}")
        return found

    def told(self) -> dict[str, Any]:
        """Return the figures, and the sentences of the first that was named, and was not."""
        return {
            "wanted": self.wanted,
            "comparisons": self.done,
            "loss_planted": self.planted,
            "must_be_found": self.must_be_found,
            "ratio_of_whole": spread(self.ratios),
            "verdicts": dict(self.verdicts),
            "slower_share": share(self.slower, self.done),
            "slower_share_at_least": round(at_least(self.slower, self.done), 4),
            "confidence": CONFIDENCE,
            "whole_slower_share": share(self.whole_slower, self.done),
            "named_share": share(self.named, self.done),
            "why": self.why[:_MOST_LINES],
            "why_unnamed": self.unnamed[:_MOST_LINES],
        }


def wholes(found: Comparison) -> Iterable[SeriesResult]:
    """Return the series of the whole chain's marginal cost, where there is one."""
    return [
        result
        for result in found.series
        if result.key.part == WHOLE and result.key.quantity in ("marginal", "cpu_part")
    ]


def ratios_of_whole(found: Comparison) -> list[float]:
    """Return new over old of the chain's marginal cost, where it was compared."""
    return [result.change.ratio for result in wholes(found) if result.change is not None]


def too_few(done: int, wanted: int) -> list[str]:
    """Return a sentence where fewer comparisons were made than are wanted."""
    return [f"time for {done} of {wanted} comparisons only"] if done < wanted else []


def share(hits: int, of: int) -> float | None:
    """Return the share, rounded; None of nothing."""
    return round(hits / of, 4) if of else None


def spread(ratios: list[float]) -> dict[str, float]:
    """Return least, median and largest; nothing of nothing."""
    if not ratios:
        return {}
    named = {"least": min(ratios), "median": statistics.median(ratios), "largest": max(ratios)}
    return {name: round(value, 4) for name, value in named.items()}
