# SPDX-License-Identifier: Apache-2.0
"""The history: one line of JSON a recording, appended and never rewritten.

A line holds the medians of every build of every series, and those of the yardsticks beside them.
Recordings themselves are too large to be kept for years.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphrt.errors import sentence
from graphrt.latency.errors import OtherSchema, RecordingError
from graphrt.latency.machine import machine_of
from graphrt.latency.quantities import QUANTITIES, Key
from graphrt.latency.recording import Recording, Samples

KIND = "graphrt latency history"
SCHEMA = 1

Medians = dict[Key, list[float]]
"""Microseconds by series: the median of every build."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One recording of a history.

    run: tells recordings apart. machine: entries of different ones are never compared. cases,
    yardsticks: by case.
    """

    run: str
    label: str
    date: str
    commit: str
    machine: str
    cases: Mapping[str, Medians]
    yardsticks: Mapping[str, Medians]

    @classmethod
    def of(cls, recording: Recording) -> Entry:
        """Return what a history keeps of ``recording``; cases that failed are left out."""
        commit = recording.conditions.get("commit") or {}
        dirty = " with changes" if commit.get("dirty") else ""
        cases = {name: case for name, case in recording.cases.items() if not case.failed}
        return cls(
            run=f"{recording.run} {recording.label}",
            label=recording.label,
            date=str(recording.conditions.get("date", "unknown")),
            commit=f"{str(commit.get('hash') or 'unknown')[:12]}{dirty}",
            machine=machine_of(recording),
            cases={name: _medians(case.series) for name, case in cases.items()},
            yardsticks={name: _medians(case.yardsticks) for name, case in cases.items()},
        )

    def describe(self) -> dict[str, Any]:
        """Return the entry as JSON has it."""
        told = {name: getattr(self, name) for name in ("run", "label", "date", "commit", "machine")}
        sides = {"cases": self.cases, "yardsticks": self.yardsticks}
        told |= {name: {case: _told(m) for case, m in side.items()} for name, side in sides.items()}
        return {"kind": KIND, "schema": SCHEMA, **told}


def append(recording: Recording, path: Path) -> bool:
    """Add ``recording`` to the history in ``path``; return False where it was there already.

    What is there is kept to the byte; a last line that was cut off is closed first. Raises
    RecordingError where the file is no history.
    """
    entry = Entry.of(recording)
    known = read(path) if path.exists() else []
    if any(one.run == entry.run for one in known):
        return False
    line = json.dumps(entry.describe(), ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        cut = file.tell() > 0 and not path.read_bytes().endswith(b"\n")
        file.write(f"{chr(10) if cut else ''}{line}\n".encode())
    return True


def read(path: Path) -> list[Entry]:
    """Return the entries in the order they were added.

    A line that is no JSON is one that was cut off while it was appended, and is left out. Raises
    RecordingError where no line is of a history, OtherSchema for one of another schema.
    """
    text = path.read_text(encoding="utf-8")
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            told = json.loads(line)
        except ValueError:
            continue
        entries.append(_entry(told, f"{path.name}: line {number}"))
    if not entries and text.strip():
        raise RecordingError(
            sentence(path.name, "no line of a history", f"must be of kind {KIND}", "pass one")
        )
    return entries


def _entry(told: Any, where: str) -> Entry:
    if not isinstance(told, dict) or told.get("kind") != KIND:
        raise RecordingError(sentence(where, "something else", f"must be a {KIND}", "pass one"))
    if told.get("schema") != SCHEMA:
        raise OtherSchema(
            sentence(f"{where}: schema", told.get("schema"), f"must be {SCHEMA}", "begin anew")
        )
    try:
        sides = [
            {case: _parsed(series) for case, series in told[name].items()}
            for name in ("cases", "yardsticks")
        ]
        words = {name: str(told[name]) for name in ("run", "label", "date", "commit", "machine")}
        return Entry(**words, cases=sides[0], yardsticks=sides[1])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        rule = f"{type(error).__name__}: {error}"
        raise RecordingError(sentence(where, "malformed", rule, "remove the line")) from None


def _medians(series: Mapping[Key, Samples]) -> Medians:
    return {
        key: [round(float(np.median(build)), 4) for build in samples]
        for key, samples in series.items()
    }


def _told(medians: Medians) -> list[list[Any]]:
    return [[key.quantity, key.part, *values] for key, values in medians.items()]


def _parsed(series: list[list[Any]]) -> Medians:
    found: Medians = {}
    for quantity, part, *values in series:
        if quantity not in QUANTITIES or not values or min(map(float, values)) < 0:
            raise ValueError(f"{quantity} of {part}: {values}")
        found[Key(quantity, part)] = [float(one) for one in values]
    return found
