# SPDX-License-Identifier: Apache-2.0
"""Where a history steps up or down.

A series is cut where its two sides lie nearest to their medians, and each side is searched again. A
cut is a step if it is clear of the scatter from one recording to the next, is at least the minimum
effect, and is one relative to the yardsticks too: what they did was the machine's doing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphrt.latency.effects import MinimumEffects
from graphrt.latency.history import Entry, Medians
from graphrt.latency.quantities import Key
from graphrt.latency.yardsticks import yardsticks_of

LEAST = 3
"""Recordings on either side of a step, at least: of fewer nobody can tell a step from a bad day."""

_SIGMAS = 4.0  # of the difference: 200 histories of nothing, of 8 … 40 lines, had 1 % of steps
_TINY = 1e-4  # scatter is at least this: a clock's last digit is no evidence


@dataclass(frozen=True, slots=True)
class Step:
    """A series moved at ``entry``, the first recording after it. ratio: new over old median."""

    case: str
    key: Key
    entry: Entry
    ratio: float
    before: int
    after: int

    def __str__(self) -> str:
        """Return one line."""
        word = "SLOWER" if self.ratio > 1 else "FASTER"
        return (
            f"{self.case}: {self.key} {word} {self.ratio - 1:+.1%} since {self.entry.date[:10]}, "
            f"commit {self.entry.commit} ({self.before} recordings before, {self.after} since)"
        )


def steps(entries: Sequence[Entry], effects: MinimumEffects | None = None) -> list[Step]:
    """Return the steps of every series of one machine's entries, in their order."""
    effects = effects or MinimumEffects()
    found = []
    for case, key in series_of(entries):
        with_it = [entry for entry in entries if key in entry.cases.get(case, {})]
        logs = _logs([entry.cases[case][key] for entry in with_it])
        relatives = [logs]
        for yardstick in yardsticks_of(key.quantity):
            beside: list[Medians] = [entry.yardsticks.get(case, {}) for entry in with_it]
            if all(yardstick in medians for medians in beside):
                relatives.append(logs - _logs([medians[yardstick] for medians in beside]))
        least = math.log1p(effects.of(key.quantity, 0.5, float(np.exp(logs.min()))))
        for cut, low, high in _cuts(logs, 0, least):
            moves = [_moved(series[low:high], cut - low) for series in relatives]
            if all(abs(one) >= least and one * moves[0] > 0 for one in moves):
                ratio = math.exp(moves[0])
                found.append(Step(case, key, with_it[cut], ratio, cut - low, high - cut))
    return found


def series_of(entries: Sequence[Entry]) -> list[tuple[str, Key]]:
    """Return every series that any entry has, in the order of the newest."""
    return list(
        dict.fromkeys(
            (case, key)
            for entry in reversed(entries)
            for case, medians in entry.cases.items()
            for key in medians
        )
    )


def _cuts(logs: NDArray[np.float64], start: int, least: float) -> Iterator[tuple[int, int, int]]:
    """Yield cuts as (first index after it, begin, end of what was cut), from left to right."""
    count = len(logs)
    if count < 2 * LEAST:
        return
    # Where medians leave the least: of cuts that are one recording apart, medians hardly differ.
    cut = min(range(LEAST, count - LEAST + 1), key=lambda cut: _left(logs, cut))
    moved = abs(_moved(logs, cut))
    scatter = max(_scatter(logs), _TINY) * math.sqrt(1 / cut + 1 / (count - cut))
    # Few differences tell their scatter badly: ask for more.
    if moved < least or moved < _SIGMAS * (1 + 6 / count) * scatter:
        return
    yield from _cuts(logs[:cut], start, least)
    yield start + cut, start, start + count
    yield from _cuts(logs[cut:], start + cut, least)


def _left(logs: NDArray[np.float64], cut: int) -> float:
    return float(sum(np.abs(side - np.median(side)).sum() for side in (logs[:cut], logs[cut:])))


def _moved(logs: NDArray[np.float64], cut: int) -> float:
    return float(np.median(logs[cut:]) - np.median(logs[:cut]))


def _scatter(logs: NDArray[np.float64]) -> float:
    """Return the standard deviation as successive differences tell it: steps hardly count."""
    return float(np.median(np.abs(np.diff(logs)))) * 1.4826 / math.sqrt(2)


def _logs(medians: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    floor = float(np.finfo(np.float64).tiny)
    return np.log(np.maximum([float(np.median(builds)) for builds in medians], floor))
