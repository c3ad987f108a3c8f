# SPDX-License-Identifier: Apache-2.0
"""Sides that take turns, sample by sample, so that whatever drifts drifts for all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from graphrt.errors import ConfigError, GraphrtError, sentence
from graphrt.latency.budget import Budget
from graphrt.latency.quantities import Key
from graphrt.latency.recording import CaseRecord, samples_of
from graphrt.latency.samplers import Samplers
from graphrt.latency.subject import Build, Subject
from graphrt.latency.yardsticks import Yardsticks

Say = Callable[[str], object]


class Side(Protocol):
    """One side of a comparison. It holds one build at a time, which may be in another process."""

    label: str

    def build(self, case: str) -> dict[Key, int]:
        """Make a new build; return its series, with the most blocks to take of each."""

    def sample(self, key: Key) -> list[float]:
        """Return one block of a series of the build."""

    def yardsticks(self) -> dict[Key, list[float]]:
        """Return one block of every yardstick."""

    def what(self) -> dict[str, Any]:
        """Return the build's sizes."""

    def facts(self) -> dict[str, Any]:
        """Return what may explain the build's times."""

    def check(self) -> str:
        """Run the build's correctness gate; return what it found or raise GraphrtError."""

    def release(self) -> None:
        """Close the build."""

    def close(self) -> None:
        """Close the side."""


class LocalSide:
    """A side in this process.

    cases: what makes a build of each case, by name. yardsticks: None samples none; where both sides
    take turns they decide nothing. quantities: those that are sampled, None: all.
    """

    def __init__(
        self,
        label: str,
        cases: Mapping[str, Build],
        yardsticks: Yardsticks | None,
        quantities: Collection[str] | None = None,
    ) -> None:
        """Hold no build yet; ``yardsticks`` are the process's, and stay its own to close."""
        self.label = label
        self._cases = cases
        self._yardsticks = yardsticks.samplers() if yardsticks is not None else {}
        self._quantities = quantities
        self._subject: Subject | None = None
        self._samplers: Samplers = {}

    def build(self, case: str) -> dict[Key, int]:
        """Make a build."""
        self._subject = self._cases[case]()
        self._samplers = {
            key: sampler
            for key, sampler in self._subject.samplers().items()
            if self._quantities is None or key.quantity in self._quantities
        }
        return {key: sampler.blocks for key, sampler in self._samplers.items()}

    def sample(self, key: Key) -> list[float]:
        """Take one block."""
        return self._samplers[key].take()

    def yardsticks(self) -> dict[Key, list[float]]:
        """Take one block of each."""
        return {key: sampler.take() for key, sampler in self._yardsticks.items()}

    def what(self) -> dict[str, Any]:
        """Ask the subject."""
        return self._built.what()

    def facts(self) -> dict[str, Any]:
        """Ask the subject."""
        return self._built.facts()

    def check(self) -> str:
        """Ask the subject."""
        return self._built.check()

    def release(self) -> None:
        """Close the build."""
        self._samplers = {}
        subject, self._subject = self._subject, None
        if subject is not None:
            subject.close()

    def close(self) -> None:
        """Close the build."""
        self.release()

    @property
    def _built(self) -> Subject:
        if self._subject is None:
            raise ConfigError(sentence(self.label, "no build", "needs one", "call build() first"))
        return self._subject


def take_case(sides: Sequence[Side], case: str, budget: Budget) -> list[CaseRecord]:
    """Sample one case of every side in turns, and return what was taken, side by side.

    A side that cannot be built, or whose gate refuses it, gives ``failed`` for all of them: there
    is nothing to compare. Only series that every side has are taken.
    """
    taken = [CaseRecord(case) for _ in sides]
    try:
        for number in range(budget.builds):
            _take_build(sides, taken, number, budget)
    except (GraphrtError, RuntimeError) as reason:
        for one in taken:
            one.failed = f"{type(reason).__name__}: {reason}"
            one.series, one.yardsticks = {}, {}
    for one in taken:
        one.series = samples_of(one.series)
    return taken


def _take_build(
    sides: Sequence[Side], taken: Sequence[CaseRecord], number: int, budget: Budget
) -> None:
    order = list(range(len(sides)))
    if number % 2:
        order.reverse()  # neither side always allocates first
    try:
        most = [sides[index].build(taken[index].name) for index in order]
        common = {key: limit for key, limit in most[0].items() if all(key in m for m in most)}
        for index in order:
            side, one = sides[index], taken[index]
            if not number:
                one.what, one.facts = side.what(), side.facts()
                one.facts["gate"] = side.check()
            for key in common:
                one.series.setdefault(key, []).append([])
        _take_blocks(sides, taken, order, common, budget.blocks)
    finally:
        for side in sides:
            side.release()


def _take_blocks(
    sides: Sequence[Side],
    taken: Sequence[CaseRecord],
    order: Sequence[int],
    common: Mapping[Key, int],
    blocks: int,
) -> None:
    for key, limit in common.items():
        if limit >= blocks:
            for index in order:
                sides[index].sample(key)  # warm-up
    for index in order:
        for key in sides[index].yardsticks():  # warm-up too
            taken[index].yardsticks.setdefault(key, []).append([])
    for block in range(blocks):
        for index in order if block % 2 else reversed(order):
            for key, samples in sides[index].yardsticks().items():
                taken[index].yardsticks[key][-1].append(samples)
        for place, (key, limit) in enumerate(common.items()):
            if block >= limit:
                continue
            turn = order if (block + place) % 2 else list(reversed(order))
            for index in turn:
                taken[index].series[key][-1].append(sides[index].sample(key))
