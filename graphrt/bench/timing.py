# SPDX-License-Identifier: Apache-2.0
"""The timing contract, the same for every contender.

On CUDA a time is the marginal cost of a call inside one graph, after an ordinary kernel:

    (spacer, call) x K   minus   (spacer) x K,   over K

The spacer is a small kernel without PDL, as another layer's would be. Every contender's graph is
captured first; then each round replays all of them once, so that clocks and neighbours drift for
all alike. The medians over the rounds are what is subtracted, the 10th and 90th percentile of the
rounds are the spread. Without CUDA the same calls run on the host's clock, to try it all out.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from graphrt.bench.workload import Effort

Work = Callable[[], object]

_HEAD_START_CYCLES = 400_000  # 0.2 ms at 2 GHz, longer than the host takes to launch a graph


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds of one call: median, 10th and 90th percentile over the rounds."""

    us: float
    low_us: float
    high_us: float
    calls: int
    rounds: int

    def describe(self) -> dict[str, float]:
        """Return the timing as JSON has it."""
        return {
            "us": round(self.us, 3),
            "low_us": round(self.low_us, 3),
            "high_us": round(self.high_us, 3),
            "calls": self.calls,
            "rounds": self.rounds,
        }


@dataclass(frozen=True, slots=True)
class Timed:
    """What is to be timed: the calls, and what must be done before each round, untimed."""

    calls: Sequence[Work]
    before_round: Work = field(default=_nothing)


def marginal_times(
    contenders: Mapping[str, Timed], device: torch.device, effort: Effort
) -> dict[str, Timing]:
    """Return the marginal cost of a call of each contender; all have equally many calls.

    A contender that raises while it is captured stops everything: gate it first.
    """
    counts = {len(timed.calls) for timed in contenders.values()}
    if len(counts) != 1:
        raise ValueError(f"calls={sorted(counts)}: every contender needs equally many")
    (count,) = counts
    spacer = _spacer(device)
    runs = {name: _repeatable(timed, spacer, device) for name, timed in contenders.items()}
    alone = _repeatable(Timed([_nothing] * count), spacer, device)
    for _ in range(effort.warm_up):
        alone()
        for run in runs.values():
            run()
    spacers: list[float] = []
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(effort.rounds):
        spacers.append(alone())
        for name, run in runs.items():
            samples[name].append(run())
    base = statistics.median(spacers)
    return {name: _timing(found, base, count) for name, found in samples.items()}


def copy_bandwidth(device: torch.device, effort: Effort) -> float:
    """Return bytes per second of a device-to-device copy, bytes read and written together."""
    source = torch.ones(effort.copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    for _ in range(effort.warm_up):
        _elapsed_us(copy, device)
    us = statistics.median(_elapsed_us(copy, device) for _ in range(effort.rounds))
    return 2 * effort.copy_bytes / (us * 1e-6)


def _timing(samples: Sequence[float], base: float, count: int) -> Timing:
    each = sorted((sample - base) / count for sample in samples)
    last = len(each) - 1
    return Timing(
        us=(statistics.median(samples) - base) / count,
        low_us=each[round(0.1 * last)],
        high_us=each[round(0.9 * last)],
        calls=count,
        rounds=len(each),
    )


def _spacer(device: torch.device) -> Work:
    ordinary = torch.zeros(1 << 16, device=device)

    def spacer() -> None:
        ordinary.add_(1.0)

    return spacer


def _repeatable(timed: Timed, spacer: Work, device: torch.device) -> Callable[[], float]:
    """Return what runs (spacer, call) for every call and returns the microseconds it took."""

    def eager() -> None:
        for call in timed.calls:
            spacer()
            call()

    if device.type != "cuda":
        work = eager
    else:
        timed.before_round()
        eager()  # compiles and loads every kernel: nothing may be loaded during a capture
        torch.cuda.synchronize(device)
        timed.before_round()
        work = _captured(eager, device)

    def once() -> float:
        timed.before_round()
        return _elapsed_us(work, device)

    return once


def _captured(work: Work, device: torch.device) -> Callable[[], None]:
    stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    collecting = gc.isenabled()
    gc.disable()  # what a collection frees may not be freed during a capture
    try:
        with torch.cuda.stream(stream):
            graph.capture_begin()
            try:
                work()
            finally:
                graph.capture_end()
    finally:
        if collecting:
            gc.enable()
    torch.cuda.synchronize(device)

    def replay(hold: object = work) -> None:  # the work holds the tensors the graph points at
        graph.replay()

    return replay


def _elapsed_us(work: Work, device: torch.device) -> float:
    if device.type != "cuda":
        begin = time.perf_counter()
        work()
        return (time.perf_counter() - begin) * 1e6
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(_HEAD_START_CYCLES)  # the device is still busy when the work is enqueued
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3
