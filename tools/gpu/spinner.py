# SPDX-License-Identifier: Apache-2.0
"""A kernel that takes as long as it is asked to: the loss that is planted in trials."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from graphrt.bench.timing import Timed, Work
from graphrt.capture.space import capture_space
from graphrt.latency.quantities import Key
from graphrt.latency.samplers import Marginal

_CALLS = 64
_TIMES = 9
_LONG_CYCLES = 20_000  # about ten microseconds


@dataclass(frozen=True, slots=True)
class Spinner:
    """launch_us: what the shortest spin adds to a graph. us_per_cycle: what each cycle adds to it.

    Both by the contract of ``marginal``; on a CPU 0, and what is planted is a small product.
    """

    launch_us: float
    us_per_cycle: float

    def plant(self, wanted_us: float) -> tuple[Work, float]:
        """Return a kernel, and the microseconds it adds: those wanted, its launch among them.

        No less than a launch alone takes.
        """
        if not self.us_per_cycle:
            ballast = torch.ones(1 << 14)
            return lambda: ballast.mul_(1.0), 0.0
        return _spin(self.cycles(wanted_us)), max(wanted_us, self.launch_us)

    def cycles(self, wanted_us: float) -> int:
        """Return for how many cycles it must spin to add ``wanted_us``; at least one."""
        return max(1, round((wanted_us - self.launch_us) / self.us_per_cycle))


def measure_spinner(device: torch.device) -> Spinner:
    """Measure a short and a long spin in graphs of their own."""
    if device.type != "cuda":
        return Spinner(0.0, 0.0)
    cycles = {"short": 1, "long": _LONG_CYCLES}
    parts = {name: Timed([_spin(count)] * _CALLS) for name, count in cycles.items()}
    marginal = Marginal(capture_space(device), parts, device)
    try:
        samplers = marginal.samplers(_TIMES)
        for sampler in samplers.values():
            sampler.take()  # the clocks rise
        short, long = (
            statistics.median(samplers[Key("marginal", name)].take()) for name in ("short", "long")
        )
    finally:
        marginal.close()
    return Spinner(short, (long - short) / (_LONG_CYCLES - 1))


def _spin(cycles: int) -> Work:
    return lambda: torch.cuda._sleep(cycles)
