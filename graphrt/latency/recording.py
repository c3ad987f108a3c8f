# SPDX-License-Identifier: Apache-2.0
"""What a recording holds: raw samples of every case, and under which conditions they were taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphrt.latency.quantities import Key

SCHEMA = 1
KIND = "graphrt latency recording"

Samples = list[list[list[float]]]
"""Microseconds, by build, block and sample, in the order they were taken."""


@dataclass(slots=True)
class CaseRecord:
    """One case of a recording.

    what: its sizes. facts: what explains its times, see `graphrt.latency.facts`. failed: why there
    are no times, None where there are. series: samples by key. yardsticks: of the machine, a block
    beside every block of the case, so that they saw what the case did.
    """

    name: str
    what: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None
    series: dict[Key, Samples] = field(default_factory=dict)
    yardsticks: dict[Key, Samples] = field(default_factory=dict)

    def array(self, key: Key) -> NDArray[np.float64]:
        """Return a series as (builds, blocks, samples)."""
        return np.asarray(self.series[key], dtype=np.float64)


@dataclass(slots=True)
class Recording:
    """What one side of a comparison recorded.

    label: what a person calls it. run: names the interleaved run that it was taken in; recordings
    of one run are compared pair by pair. device: torch's name. conditions: GPU, driver, versions,
    commit. clocks: as nvidia-smi words them, by moment. settings: counts that belong to the timing
    contract.
    """

    label: str
    run: str
    device: str
    conditions: dict[str, Any]
    settings: dict[str, Any]
    clocks: dict[str, Any] = field(default_factory=dict)
    cases: dict[str, CaseRecord] = field(default_factory=dict)
    complete: bool = False

    def describe(self) -> dict[str, Any]:
        """Return the recording as JSON has it."""
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "complete": self.complete,
            "label": self.label,
            "run": self.run,
            "device": self.device,
            "conditions": self.conditions,
            "settings": self.settings,
            "clocks": self.clocks,
            "cases": [_describe_case(case) for case in self.cases.values()],
        }


def _describe_case(case: CaseRecord) -> dict[str, Any]:
    return {
        "name": case.name,
        "what": case.what,
        "facts": case.facts,
        "failed": case.failed,
        "series": _describe_series(case.series),
        "yardsticks": _describe_series(case.yardsticks),
    }


def _describe_series(series: Mapping[Key, Samples]) -> list[dict[str, Any]]:
    return [
        {"quantity": key.quantity, "part": key.part, "unit": "us", "samples": _rounded(samples)}
        for key, samples in series.items()
    ]


def _rounded(samples: Samples) -> Samples:
    """Return the samples to the nanosecond's tenth: more digits are none of the clock's."""
    return [[[round(one, 4) for one in block] for block in build] for build in samples]


def samples_of(taken: Mapping[Key, Samples]) -> dict[Key, Samples]:
    """Return ``taken`` without series of which nothing was taken."""
    return {key: samples for key, samples in taken.items() if samples and samples[0]}
