# SPDX-License-Identifier: Apache-2.0
"""A side that adds up where its time goes."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, TypeAlias

from graphrt.latency.interleave import Side
from graphrt.latency.quantities import Key

Seconds: TypeAlias = "defaultdict[str, float]"


@contextlib.contextmanager
def timed(seconds: Seconds, what: str) -> Iterator[None]:
    """Add the time spent within to ``seconds[what]``."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        seconds[what] += time.perf_counter() - begin


class TimedSide:
    """A `Side` that does what ``side`` does, and adds what it takes to ``seconds``, by what."""

    def __init__(self, side: Side, seconds: Seconds) -> None:
        """Take over ``side``."""
        self.label = side.label
        self._side, self._seconds = side, seconds

    def build(self, case: str) -> dict[Key, int]:
        """Make a build."""
        with timed(self._seconds, "build"):
            return self._side.build(case)

    def sample(self, key: Key) -> list[float]:
        """Take one block."""
        with timed(self._seconds, f"sample {key.quantity}"):
            return self._side.sample(key)

    def yardsticks(self) -> dict[Key, list[float]]:
        """Take one block of each."""
        with timed(self._seconds, "yardsticks"):
            return self._side.yardsticks()

    def what(self) -> dict[str, Any]:
        """Ask the side."""
        return self._side.what()

    def facts(self) -> dict[str, Any]:
        """Ask the side."""
        with timed(self._seconds, "facts"):
            return self._side.facts()

    def check(self) -> str:
        """Ask the side."""
        with timed(self._seconds, "gate"):
            return self._side.check()

    def release(self) -> None:
        """Close the build."""
        with timed(self._seconds, "release"):
            self._side.release()

    def close(self) -> None:
        """Close the side."""
        self._side.close()
