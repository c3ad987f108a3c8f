# SPDX-License-Identifier: Apache-2.0
"""How each quantity is sampled: one visit of a sampler returns one block of microseconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from graphrt.bench.timing import Timed, Work
from graphrt.capture.graph import Graph
from graphrt.capture.space import CaptureSpace
from graphrt.latency.quantities import Key

_IN_FLIGHT = 8  # host calls between two waits, so that none waits for room in the launch queue
_HEAD_START_CYCLES = 400_000  # 0.2 ms at 2 GHz, longer than the host takes to enqueue a launch


@dataclass(frozen=True, slots=True)
class Sampler:
    """take: returns one block, always of the same length. blocks: how many of a build at most."""

    take: Callable[[], list[float]]
    blocks: int = 1 << 30


Samplers = dict[Key, Sampler]


def synchronize(device: torch.device) -> None:
    """Wait for the device; a CPU has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def host_us(work: Work) -> float:
    """Return the host time of one call."""
    begin = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - begin) / 1e3


def device_us(work: Work, device: torch.device) -> float:
    """Return the device time of what ``work`` enqueues; on a CPU the host's time."""
    if device.type != "cuda":
        return host_us(work)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(_HEAD_START_CYCLES)
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3


def host_launch(launch: Work, device: torch.device, calls: int) -> Sampler:
    """Sample the host cost of ``launch``, call by call."""

    def take() -> list[float]:
        launch()
        found = []
        for index in range(calls):
            if index % _IN_FLIGHT == 0:
                synchronize(device)
            found.append(host_us(launch))
        synchronize(device)
        return found

    return Sampler(take)


def gpu_span(launch: Work, device: torch.device, launches: int) -> Sampler:
    """Sample the device time of launches, one at a time."""
    return Sampler(lambda: [device_us(launch, device) for _ in range(launches)])


def step(run: Work, steps: int) -> Sampler:
    """Sample ``run``, which returns when its result is there."""

    def take() -> list[float]:
        run()
        return [host_us(run) for _ in range(steps)]

    return Sampler(take)


class Recapture:
    """Captures the same work again and again: samples ``capture`` and ``first_launch``."""

    def __init__(self, space: CaptureSpace, work: Work, device: torch.device) -> None:
        """Capture ``work`` in ``space``; it must have been run before."""
        self._space, self._work, self._device = space, work, device
        self._graph: Graph | None = None

    def samplers(self, times: int) -> Samplers:
        """Return both samplers; either makes a graph where there is none."""
        return {
            Key("capture"): Sampler(lambda: [self._capture()], times),
            Key("first_launch"): Sampler(lambda: [self._first_launch()], times),
        }

    def close(self) -> None:
        """Close the graph."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def _capture(self) -> float:
        self.close()
        synchronize(self._device)
        graph = self._graph = self._space.graph("recaptured graph")

        def make() -> None:
            graph.capture(self._work)
            graph.instantiate()
            graph.upload()
            synchronize(self._device)

        return host_us(make)

    def _first_launch(self) -> float:
        if self._graph is None:
            self._capture()
        graph, self._graph = self._graph, None
        assert graph is not None

        def first() -> None:
            graph.launch()
            synchronize(self._device)

        found = host_us(first)
        graph.close()
        return found


class Marginal:
    """Samples what each part adds to a long graph, by the timing contract of `graphrt.bench`.

    parts: the calls to be timed, by name; all equally many. On a CPU the calls run as they are, and
    the quantity is ``cpu_part``.
    """

    def __init__(
        self, space: CaptureSpace, parts: Mapping[str, Timed], device: torch.device
    ) -> None:
        """Capture one graph a part, and one of spacers alone. Every call must have run before."""
        self._device = device
        counts = {len(timed.calls) for timed in parts.values()}
        if len(counts) != 1:
            raise ValueError(f"calls={sorted(counts)}: every part needs equally many")
        (self._count,) = counts
        ordinary = torch.zeros(1 << 16, device=device)
        self._graphs: list[Graph] = []
        self._parts = parts

        def captured(timed: Timed) -> Graph:
            def work() -> None:
                for call in timed.calls:
                    if device.type == "cuda":
                        ordinary.add_(1.0)
                    call()

            timed.before_round()
            space.warm_up(work)
            timed.before_round()
            graph = space.graph("marginal cost")
            self._graphs.append(graph)
            graph.capture(work)
            graph.instantiate()
            graph.upload()
            return graph

        self._alone = captured(Timed([lambda: None] * self._count)).launch
        self._launches = {name: captured(timed).launch for name, timed in parts.items()}

    def samplers(self, times: int) -> Samplers:
        """Return a sampler a part, ``times`` samples a block."""
        name = "marginal" if self._device.type == "cuda" else "cpu_part"
        return {
            Key(name, part): self._sampler(self._parts[part], launch, times)
            for part, launch in self._launches.items()
        }

    def close(self) -> None:
        """Close the graphs."""
        for graph in self._graphs:
            graph.close()

    def _sampler(self, timed: Timed, launch: Work, times: int) -> Sampler:
        def one() -> float:
            timed.before_round()
            alone = device_us(self._alone, self._device) if self._device.type == "cuda" else 0.0
            return (device_us(launch, self._device) - alone) / self._count

        def take() -> list[float]:
            one()  # a graph's first launch after others' is slower, by up to a third
            return [one() for _ in range(times)]

        return Sampler(take)
