# SPDX-License-Identifier: Apache-2.0
"""device_time: microseconds that launches of the chain take on the device.

What is launched: advance, then of every layer conv1d and the pair, or fused, or single, then one
kernel that accepts the counts (1 … T tokens, spread evenly over the rows), so that flushes come as
often as they would. Inputs are random, outputs are finite, or the section fails.

    many layers, cold            one launch at a time, all of L2 overwritten before each
    many layers, back to back    what the launch before left in L2 is found there
    one layer, back to back      the graph of a single layer: where launching it costs the host more
                                 (section host), it is the host that is measured
    other states                 batch 1 again, with states that are not rounded stochastically
    empty                        batch 1 again, with three kernels a layer that do nothing, linked
                                 like the chain's: what a step costs that computes nothing. First of
                                 all, and again beside the other states: of kernels that do nothing
                                 a process's first graph takes two thirds of what a later one takes
                                 (docs/performance.md)

By CUDA events around the launches: means over a cycle of flushes, then the median of those.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graphrt.bench.yardsticks.empty import empty_layer
from graphrt.config import RuntimeConfig
from graphrt.kernels.chain import BoundChain, runs_kernels
from graphrt.kernels.pdl import usable_links
from graphrt.runtime import DecodeRuntime
from graphrt.step import ChainBuffers, ChainStep
from tools.gpu.settings import Settings
from tools.gpu.workload import (
    TOKENS,
    captured,
    describe,
    fill_inputs,
    random_weights,
    serving_config,
    synchronize,
)

OTHER_STATES = (torch.float16, torch.float32)
L2_TIMES = 4  # what is overwritten before a cold launch


@dataclass(frozen=True, slots=True)
class AcceptingBuffers:
    """The chain's buffers, and what every launch accepts. counts: (rows,) int32."""

    chain: ChainBuffers
    counts: Tensor


class AcceptingStep:
    """The chain alone, followed by accepting counts that lie in a static buffer."""

    def __init__(self, step: ChainStep) -> None:
        """Wrap ``step``."""
        self._step = step

    def buffers(self, bucket: int, tokens: int) -> AcceptingBuffers:
        """Return zeroed chain buffers, and counts that differ from row to row."""
        chain = self._step.buffers(bucket, tokens)
        row = torch.arange(bucket, dtype=torch.int32, device=chain.out.device)
        return AcceptingBuffers(chain, 1 + (row + 2) % tokens)

    def __call__(self, chain: BoundChain, buffers: AcceptingBuffers) -> None:
        """Enqueue every layer, then accept."""
        self._step(chain, buffers.chain)
        chain.accept(buffers.counts)


class EmptyStep(ChainStep):
    """As many kernels as the chain has, of which none does anything."""

    def __call__(self, chain: BoundChain, buffers: ChainBuffers) -> None:
        """Enqueue three kernels a layer; on the CPU nothing."""
        device = buffers.out.device
        if runs_kernels(device):
            for _ in range(self._config.layers):
                empty_layer(usable_links(self._config.pdl, device))


def device_time(settings: Settings) -> dict[str, Any]:
    """Time the chain at every batch, with PDL and without."""
    failures: list[str] = []
    timings: list[dict[str, Any]] = []
    empty: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for pdl in (True, False):
        empty.append({"when": "first" if pdl else "later"} | _empty(settings, pdl))
        for layers in (settings.layers, 1):
            config = serving_config(
                settings,
                layers=layers,
                slots=settings.batches[-1],
                buckets=settings.batches,
                pdl=pdl,
            )
            timings += _chain(settings, config, failures)
    for dtype in OTHER_STATES:
        other = replace(
            serving_config(settings, layers=settings.layers, slots=1, buckets=(1,)),
            state_dtype=dtype,
            rounding="nearest",
        )
        empty.append({"when": "beside"} | _empty(settings, True))
        others += _chain(settings, other, failures)
    return {
        "failures": failures,
        "config": describe(config) | {"layers": [settings.layers, 1], "pdl": "both"},
        "tokens": TOKENS,
        "repeats": settings.repeats,
        "empty": empty,
        "other_states": others,
        "timings": sorted(timings, key=lambda t: (-t["layers"], t["batch"], not t["pdl"])),
    }


def _chain(
    settings: Settings, config: RuntimeConfig, failures: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield the times of a launch of every bucket; append to ``failures`` what is not finite."""
    generator = torch.Generator(config.device).manual_seed(0)
    step = ChainStep(config, random_weights(config, generator))
    with DecodeRuntime(config) as runtime:
        runtime.capture(AcceptingStep(step))
        slots = [runtime.admit() for _ in range(config.slots)]
        runtime.cache.state.normal_(generator=generator)
        for graph in captured(runtime):
            rows = slots[: graph.bucket]
            buffers: AcceptingBuffers = runtime.buffers(graph.bucket)
            fill_inputs(buffers.chain, generator)
            runtime.launch(rows)
            what: dict[str, Any] = {
                "batch": graph.bucket,
                "layers": config.layers,
                "pdl": config.pdl.conv1d,
                "state_dtype": str(config.state_dtype).removeprefix("torch."),
                "rounding": config.rounding,
            }
            yield (
                what
                | {"flush_share": _flush_share(runtime, rows, settings.flush_cycle)}
                | time_graph(settings, graph.graph.launch, config.layers)
            )
            if not bool(buffers.chain.out.isfinite().all()):
                failures.append(f"{what}: outputs are not finite")


def _empty(settings: Settings, pdl: bool) -> dict[str, Any]:
    """Return the times of a step of kernels that do nothing."""
    config = serving_config(settings, layers=settings.layers, slots=1, buckets=(1,), pdl=pdl)
    generator = torch.Generator(config.device).manual_seed(0)
    step = EmptyStep(config, random_weights(config, generator))
    with DecodeRuntime(config) as runtime:
        runtime.capture(AcceptingStep(step))
        runtime.launch([runtime.admit()])
        (graph,) = captured(runtime)
        what = {"batch": 1, "layers": settings.layers, "pdl": pdl}
        return what | time_graph(settings, graph.graph.launch, settings.layers)


def time_graph(settings: Settings, launch: Callable[[], None], layers: int) -> dict[str, float]:
    """Return microseconds of a launch: ``back_to_back_us``; with many layers also ``cold_us``."""
    device = settings.device
    together = max(settings.flush_cycle, settings.back_to_back_layers // layers)

    def back_to_back() -> None:
        for _ in range(together):
            launch()

    def median_us(sample: Callable[[], float]) -> float:
        sample()
        return statistics.median(sample() for _ in range(settings.repeats))

    timing = {"back_to_back_us": median_us(lambda: _elapsed_us(device, back_to_back) / together)}
    if layers > 1:
        scratch = torch.empty(L2_TIMES * _l2_bytes(device), dtype=torch.uint8, device=device)

        def cold_us() -> float:
            # A mean, because only some launches flush.
            return statistics.fmean(
                _elapsed_us(device, launch, lambda: scratch.fill_(1))
                for _ in range(settings.flush_cycle)
            )

        timing["cold_us"] = median_us(cold_us)
    return timing


def _elapsed_us(
    device: torch.device, work: Callable[[], None], before: Callable[[], object] = lambda: None
) -> float:
    """Return microseconds ``work`` takes on the device once ``before`` is done."""
    if device.type != "cuda":  # to try the report out
        before()
        begin = time.perf_counter()
        work()
        return (time.perf_counter() - begin) * 1e6
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before()
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3


def _flush_share(runtime: DecodeRuntime, rows: list[int], launches: int) -> float:
    """Return the share of rows that flush in a launch, counted over ``launches``."""
    flushed = torch.zeros(len(rows), device=runtime.config.device)
    index = torch.tensor(rows, device=runtime.config.device)
    for _ in range(launches):
        runtime.launch(rows)
        flushed += runtime.cache.cursors.flushed[index]
    synchronize(runtime.config.device)
    return float(flushed.mean()) / launches


def _l2_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return 1 << 20
    return int(torch.cuda.get_device_properties(device).L2_cache_size)
