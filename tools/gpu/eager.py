# SPDX-License-Identifier: Apache-2.0
"""eager: the graph of every bucket and T gives the same bits as the chain launched without one."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import torch

from graphrt.cache import ReplayCache
from graphrt.kernels.chain import BoundChain
from graphrt.runtime import DecodeRuntime
from graphrt.step import ChainStep
from tools.gpu.compare import Mismatch, check_same_bits, check_same_caches, copy_cache
from tools.gpu.settings import Settings
from tools.gpu.workload import (
    captured,
    describe,
    fill_inputs,
    random_request,
    random_weights,
    serving_config,
)


def graph_equals_eager(settings: Settings) -> dict[str, Any]:
    """Launch each graph several times, and the same chain on a clone of the caches."""
    config = serving_config(
        settings,
        layers=2,
        slots=settings.slots,
        buckets=settings.buckets,
        launch_tokens=(1, 6),
    )
    generator = torch.Generator(config.device).manual_seed(0)
    step = ChainStep(config, random_weights(config, generator))
    failures: list[str] = []
    launches = flushes = 0
    with DecodeRuntime(config) as runtime:
        runtime.capture(step)
        slots = [runtime.admit(random_request(config, generator)) for _ in range(config.slots)]
        clone = ReplayCache(config)
        for graph in captured(runtime):
            rows = random.Random(graph.bucket).sample(slots, _rows(graph.bucket, config.buckets))
            padded = rows + [-1] * (graph.bucket - len(rows))
            slot_ids = torch.tensor(padded, dtype=torch.int32, device=config.device)
            chain = BoundChain(clone, slot_ids, graph.tokens)
            buffers = runtime.buffers(graph.bucket, graph.tokens)
            eager = replace(buffers, out=torch.empty_like(buffers.out))
            for launch in range(settings.eager_launches):
                fill_inputs(buffers, generator)
                buffers.out.fill_(torch.nan)
                eager.out.fill_(torch.nan)
                copy_cache(runtime.cache, clone)
                runtime.launch(rows, tokens=graph.tokens)
                chain.advance()
                step(chain, eager)
                try:
                    check_same_bits(buffers.out, eager.out, "y")
                    check_same_caches(runtime.cache, clone)
                except Mismatch as mismatch:
                    where = f"bucket {graph.bucket}, T {graph.tokens}, launch {launch}"
                    failures.append(f"{where}: {mismatch}")
                launches += 1
                flushes += int(clone.cursors.flushed[slot_ids[: len(rows)].long()].sum())
                runtime.accept([(launch + row) % (graph.tokens + 1) for row in range(len(rows))])
    if not flushes:
        failures.append("no launch flushed: launch more often")
    return {
        "failures": failures,
        "config": describe(config),
        "graphs": len(config.buckets) * len(config.launch_tokens),
        "launches": launches,
        "flushes": flushes,
    }


def _rows(bucket: int, buckets: tuple[int, ...]) -> int:
    """Return a number of rows that is launched in ``bucket``, with padding where there can be."""
    below = max((other for other in buckets if other < bucket), default=0)
    return max(below + 1, bucket - 1)
