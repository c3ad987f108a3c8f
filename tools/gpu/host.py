# SPDX-License-Identifier: Apache-2.0
"""host: what a call costs the host, in nanoseconds.

Every call is timed alone. The calls of all cases take turns, in rounds, so that what drifts drifts
for all of them; every few calls the device is waited for, outside of the timing, so that no call
waits for room in the launch queue.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch

from graphrt.capture.cuda_graph import CudaGraph
from graphrt.runtime import DecodeRuntime
from graphrt.step import ChainStep
from tools.gpu.settings import Settings
from tools.gpu.workload import (
    captured,
    describe,
    fill_inputs,
    random_weights,
    serving_config,
    synchronize,
)

CALLS_IN_FLIGHT = 8


def host_cost(settings: Settings) -> dict[str, Any]:
    """Time launching and accepting, for graphs of one layer and of many.

    Requires `Graph.launch` to cost no more than torch.cuda.CUDAGraph.replay of the same graph.
    """
    failures = []
    graphs = []
    for layers in settings.host_layers:
        graph = _one_graph(settings, layers)
        graphs.append(graph)
        costs = graph["p50_ns"]
        if "replay" in costs and costs["graph.launch"] > costs["replay"]:
            failures.append(f"{layers} layers: graph.launch costs more than replay: {costs}")
    return {"failures": failures, "timer_p50_ns": _timer_ns(), "graphs": graphs}


def _one_graph(settings: Settings, layers: int) -> dict[str, Any]:
    rows = settings.buckets[-1] // 4 or 1
    config = serving_config(settings, layers=layers, slots=2 * rows, buckets=(rows,))
    generator = torch.Generator(config.device).manual_seed(0)
    with DecodeRuntime(config) as runtime:
        runtime.capture(ChainStep(config, random_weights(config, generator)))
        fill_inputs(runtime.buffers(rows), generator)
        slots = [runtime.admit() for _ in range(config.slots)]
        samples = interleaved(
            cases(runtime, slots[:rows], slots[rows:]),
            settings.host_rounds,
            settings.host_calls,
            lambda: synchronize(settings.device),
        )
    return {
        "config": describe(config),
        "kernel_nodes": 1 + 3 * layers,
        "rows": rows,
        "calls": settings.host_rounds * settings.host_calls,
        "p50_ns": {name: _percentile(taken, 50) for name, taken in samples.items()},
        "p10_ns": {name: _percentile(taken, 10) for name, taken in samples.items()},
        "p90_ns": {name: _percentile(taken, 90) for name, taken in samples.items()},
    }


def cases(
    runtime: DecodeRuntime, rows: list[int], others: list[int]
) -> dict[str, Callable[[], object]]:
    """Return the calls to time, by name; ``others`` are as many slots as ``rows``."""
    (bucket_graph,) = captured(runtime)
    graph = bucket_graph.graph
    taken: dict[str, Callable[[], object]] = {"graph.launch": graph.launch}
    if isinstance(graph, CudaGraph):
        graph.torch_graph.instantiate()  # graphrt made an executable of its own
        taken["replay"] = graph.torch_graph.replay
    changing = cycle([others, rows])
    counts = [1] * len(rows)
    on_device = torch.ones(len(rows), dtype=torch.int32, device=runtime.config.device)
    runtime.launch(rows)
    return taken | {
        "runtime.launch, same rows": lambda: runtime.launch(rows),
        "runtime.launch, other rows": lambda: runtime.launch(next(changing)),
        "runtime.accept, list": lambda: runtime.accept(counts),
        "runtime.accept, device tensor": lambda: runtime.accept(on_device),
    }


def interleaved(
    timed: dict[str, Callable[[], object]],
    rounds: int,
    calls: int,
    settle: Callable[[], None],
) -> dict[str, list[int]]:
    """Return rounds * calls samples of each case, in nanoseconds."""
    clock = time.perf_counter_ns
    samples: dict[str, list[int]] = {name: [] for name in timed}
    order = list(timed.items())
    for _ in range(rounds):
        order.reverse()  # no case always follows the same one
        for name, call in order:
            taken = samples[name]
            call()  # what the case before left behind is not this one's to pay for
            for index in range(calls):
                if index % CALLS_IN_FLIGHT == 0:
                    settle()
                start = clock()
                call()
                taken.append(clock() - start)
    settle()
    return samples


def _timer_ns() -> int:
    """Return what timing nothing costs; it is part of every figure."""
    return _percentile(interleaved({"": lambda: None}, 1, 1000, lambda: None)[""], 50)


def _percentile(samples: list[int], percent: int) -> int:
    return round(statistics.quantiles(samples, n=100, method="inclusive")[percent - 1])
