# SPDX-License-Identifier: Apache-2.0
"""Whether two recordings may be compared, how noisy their machine was, and whether it moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphrt.errors import sentence
from graphrt.latency.change import Change, measure_change
from graphrt.latency.errors import ComparisonRefused
from graphrt.latency.quantities import QUANTITIES, Key
from graphrt.latency.recording import CaseRecord, Recording, Samples
from graphrt.latency.yardsticks import yardsticks_of

_CONDITIONS = (
    ("gpu", "name"),
    ("gpu", "capability"),
    ("gpu", "driver_version"),
    ("cuda", "driver_supports"),
    ("machine",),
    ("cpu",),
)
_CLOCK_SETTINGS = ("clocks.max.sm", "power.limit")


def machine_differences(old: Recording, new: Recording) -> list[str]:
    """Return what makes times of the two incomparable: another GPU, driver or setting."""
    found = []
    if old.device.partition(":")[0] != new.device.partition(":")[0]:
        found.append(f"device: {old.device}, {new.device}")
    for path in _CONDITIONS:
        was, now = _at(old.conditions, path), _at(new.conditions, path)
        if was != now:
            found.append(f"{' '.join(path)}: {was}, {now}")
    for name in _CLOCK_SETTINGS:
        was, now = (_at(side.clocks, ("before", name)) for side in (old, new))
        if was != now:
            found.append(f"{name}: {was}, {now}")
    for name in dict.fromkeys([*old.settings, *new.settings]):
        was, now = old.settings.get(name), new.settings.get(name)
        if was != now:
            found.append(f"timing contract {name}: {was}, {now}")
    return found


def machine_of(recording: Recording) -> str:
    """Return a sentence that recordings share if they can be compared."""
    told = [recording.device.partition(":")[0]]
    told += [str(_at(recording.conditions, path)) for path in _CONDITIONS]
    told += [f"{name} {_at(recording.clocks, ('before', name))}" for name in _CLOCK_SETTINGS]
    told += [f"{name} {value}" for name, value in sorted(recording.settings.items())]
    return ", ".join(one for one in told if not one.endswith("None"))


def refuse_other_machine(old: Recording, new: Recording) -> None:
    """Raise ComparisonRefused if the two were made on different machines or settings."""
    found = machine_differences(old, new)
    if found:
        raise ComparisonRefused(
            sentence(
                f"{old.label} and {new.label}",
                "; ".join(found),
                "times are only comparable on one GPU, driver and setting",
                "record both on one machine, or compare ratios to yardsticks with --across",
            )
        )


@dataclass(frozen=True, slots=True)
class Machine:
    """The yardsticks beside one case of two recordings.

    moved: how each moved from the old recording to the new one. noise: how far each may have
    drifted within either, as a share.
    """

    moved: Mapping[Key, Change]
    noise: Mapping[Key, float]

    @classmethod
    def of(cls, old: CaseRecord, new: CaseRecord) -> Machine:
        """Compare the yardsticks that both have."""
        moved, noise = {}, {}
        for key in (key for key in old.yardsticks if key in new.yardsticks):
            sides = [_blocks(side.yardsticks[key]) for side in (old, new)]
            change = measure_change(*sides, paired=False)
            if change is not None:
                moved[key] = change
                noise[key] = max(_drift(side) for side in sides)
        return cls(moved, noise)

    def drifted(self, quantity: str, least: float) -> list[Key]:
        """Return the yardsticks of a quantity that moved by ``least`` or more themselves."""
        return [
            key
            for key in yardsticks_of(quantity)
            if key in self.moved
            and not self.moved[key].low <= 0 <= self.moved[key].high
            and abs(self.moved[key].log_ratio) >= np.log1p(max(least, self._resolved(key)))
        ]

    def relative(self, change: Change, quantity: str) -> dict[Key, Change]:
        """Return ``change`` as a ratio to each yardstick of its quantity."""
        return {
            key: _divided(change, self.moved[key])
            for key in yardsticks_of(quantity)
            if key in self.moved
        }

    def told(self, key: Key) -> str:
        """Return by how much a yardstick moved, with its interval."""
        moved = self.moved[key]
        low, high = np.expm1([moved.low, moved.high])
        return f"{key} by {moved.ratio - 1:+.1%} [{low:+.1%}, {high:+.1%}]"

    def _resolved(self, key: Key) -> float:
        moved = self.moved[key]
        return QUANTITIES[key.quantity].resolution_us / min(moved.old_us, moved.new_us)


def _divided(change: Change, yardstick: Change) -> Change:
    """Return the change of a ratio: logarithms subtract, independent widths add as squares."""
    ratio = change.log_ratio - yardstick.log_ratio
    low = np.hypot(change.log_ratio - change.low, yardstick.high - yardstick.log_ratio)
    high = np.hypot(change.high - change.log_ratio, yardstick.log_ratio - yardstick.low)
    return replace(change, log_ratio=ratio, low=ratio - float(low), high=ratio + float(high))


def _blocks(samples: Samples) -> NDArray[np.float64]:
    return np.asarray(samples, dtype=np.float64)


def _drift(side: NDArray[np.float64]) -> float:
    """Return how far the second half of a recording may be from its first."""
    blocks = side.reshape(1, -1, side.shape[2])
    half = blocks.shape[1] // 2
    if half < 2:
        return float("inf")
    change = measure_change(blocks[:, :half], blocks[:, half:], paired=False)
    return float("inf") if change is None else max(abs(change.low), abs(change.high))


def _at(found: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = found
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
