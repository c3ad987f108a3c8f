# SPDX-License-Identifier: Apache-2.0
"""soak: many launches of random batches, every so many of them checked against the twins.

Each launch has inputs of its own, drawn on the device into the static buffers; half of them have a
batch and a T of their own too. Accepted counts are drawn on the device and written in stream order,
now and then by the host, now and then not at all. Requests come and go, and what one leaves behind
is filled with NaN. For a check, the caches are cloned before the launch and the twins launch on the
clone.
"""

from __future__ import annotations

import gc
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphrt.buckets import choose_bucket
from graphrt.cache import ReplayCache
from graphrt.config import RuntimeConfig
from graphrt.kernels.chain import BoundChain
from graphrt.runtime import DecodeRuntime
from graphrt.step import ChainBuffers, ChainStep
from tools.gpu.compare import CACHES, Mismatch, check_caches, check_outputs, copy_cache
from tools.gpu.settings import Settings
from tools.gpu.workload import (
    describe,
    fill_inputs,
    random_request,
    random_weights,
    serving_config,
    synchronize,
)

RECYCLE_CHANCE = 0.02
# One small segment of PyTorch's allocator; kernels that CUDA loads when they are first used.
MOST_RESERVED_GROWTH_BYTES = 2 << 20
MOST_USED_GROWTH_BYTES = 32 << 20


def soak(settings: Settings) -> dict[str, Any]:
    """Launch, check, and compare the memory after warming up with that at the end."""
    config = serving_config(
        settings,
        layers=2,
        slots=settings.slots,
        buckets=settings.buckets,
        launch_tokens=(1, 6),
    )
    run = Soak(config)
    with run.runtime:
        try:
            # The first launches load and allocate whatever the others need.
            run.launch_many(settings.launches // 20, settings.check_every)
            before = memory(settings.device)
            start, first = time.perf_counter(), run.launches
            run.launch_many(settings.launches - first, settings.check_every)
            synchronize(settings.device)
            seconds = time.perf_counter() - start
            after = memory(settings.device)
        except Mismatch as mismatch:
            failures = [f"launch {run.launches}: {mismatch}"]
            return run.counts() | {"failures": failures, "config": describe(config)}
    growth = {name: after[name] - before[name] for name in after}
    failures = [
        f"{name} grew by {growth[name]} bytes in {run.launches - first} launches"
        for name, most in (
            ("allocated_bytes", 0),
            ("reserved_bytes", MOST_RESERVED_GROWTH_BYTES),
            ("used_bytes", MOST_USED_GROWTH_BYTES),
        )
        if growth.get(name, 0) > most
    ]
    return run.counts() | {
        "failures": failures,
        "config": describe(config),
        "launches_per_second": (run.launches - first) / seconds,
        "memory_after_warm_up": before,
        "memory_growth": growth,
    }


def memory(device: torch.device) -> dict[str, int]:
    """Return the bytes in use: the allocator's, the device's by all processes, the host's."""
    gc.collect()
    bytes_of = {"host_resident_bytes": _resident_bytes()}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
        bytes_of |= {
            "allocated_bytes": torch.cuda.memory_allocated(device),
            "reserved_bytes": torch.cuda.memory_reserved(device),
            "used_bytes": total - free,
        }
    return bytes_of


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


class Soak:
    """A runtime under random use, and its twin."""

    def __init__(self, config: RuntimeConfig, seed: int = 0) -> None:
        """Capture every graph and admit requests to three slots of four."""
        self.config = config
        self.rng = random.Random(seed)
        self.generator = torch.Generator(config.device).manual_seed(seed)
        self.step = ChainStep(config, random_weights(config, self.generator))
        self.runtime = DecodeRuntime(config)
        self.runtime.capture(self.step)
        self.twin = ReplayCache(config)
        self.row_counts = torch.zeros(config.buckets[-1], dtype=torch.int32, device=config.device)
        self.launches = self.checks = self.recycled = self.flushes_checked = 0
        self.worst = 0.0
        self.live: list[int] = []
        for _ in range(max(config.buckets[-1], config.slots * 3 // 4)):
            self._admit()
        self._compose()

    def counts(self) -> dict[str, Any]:
        """Return what was done so far, and the largest relative error."""
        return {
            "launches": self.launches,
            "checks": self.checks,
            "flushes_checked": self.flushes_checked,
            "requests_recycled": self.recycled,
            "max_relative_error": self.worst,
        }

    def launch_many(self, launches: int, check_every: int) -> None:
        """Launch; check the last launch of every ``check_every``. Raises Mismatch."""
        for _ in range(launches):
            if self.rng.random() < RECYCLE_CHANCE:
                self._recycle()
                self._compose()
            elif self.rng.random() < 0.5:
                self._compose()
            bucket = choose_bucket(len(self.rows), self.config.buckets)
            buffers: ChainBuffers = self.runtime.buffers(bucket, self.tokens)
            fill_inputs(buffers, self.generator)
            self.launches += 1
            if self.launches % check_every == 0:
                self._launch_and_check(buffers)
            else:
                self.runtime.launch(self.rows, tokens=self.tokens)
            self._accept()

    def _compose(self) -> None:
        """Choose a bucket, rows that fill it or not, and T."""
        buckets = self.config.buckets
        index = self.rng.randrange(len(buckets))
        fewest = buckets[index - 1] + 1 if index else 1
        most = min(buckets[index], len(self.live))
        count = self.rng.randint(min(fewest, most), most)
        self.rows = self.rng.sample(self.live, count)
        self.tokens = self.rng.choice(self.config.launch_tokens)

    def _admit(self) -> None:
        empty = self.rng.random() < 0.25
        request = None if empty else random_request(self.config, self.generator)
        self.live.append(self.runtime.admit(request))

    def _recycle(self) -> None:
        slot = self.live.pop(self.rng.randrange(len(self.live)))
        self.runtime.release(slot)
        for name in CACHES:
            getattr(self.runtime.cache, name)[:, slot] = torch.nan
        self._admit()
        self.recycled += 1

    def _accept(self) -> None:
        how = self.rng.random()
        if how < 0.05:
            return  # forgotten: nothing is committed
        if how < 0.1:
            self.runtime.accept([self.rng.randint(0, self.tokens) for _ in self.rows])
            return
        counts = self.row_counts[: len(self.rows)]
        self.runtime.accept(counts.random_(0, self.tokens + 1, generator=self.generator))

    def _launch_and_check(self, buffers: ChainBuffers) -> None:
        copy_cache(self.runtime.cache, self.twin)
        self.runtime.launch(self.rows, tokens=self.tokens)
        expected = torch.full_like(buffers.out, torch.nan)
        bucket = expected.shape[0]
        padded = self.rows + [-1] * (bucket - len(self.rows))
        slot_ids = torch.tensor(padded, dtype=torch.int32, device=self.config.device)
        launch_twins(self.twin, self.step, slot_ids, self.tokens, replace(buffers, out=expected))
        self.worst = max(self.worst, check_outputs(buffers.out, expected, len(self.rows)))
        slots = slot_ids[: len(self.rows)].long()
        check_caches(self.runtime.cache, self.twin, slots, self.tokens)
        self.checks += 1
        self.flushes_checked += int(self.twin.cursors.flushed[slots].sum())


def launch_twins(
    cache: ReplayCache, step: ChainStep, slot_ids: Tensor, tokens: int, buffers: ChainBuffers
) -> None:
    """Run one launch on ``cache`` by the PyTorch twins, on whatever device it is."""
    chain = BoundChain(cache, slot_ids, tokens)
    # Which backend runs is the device's to say; only a comparison of the two asks for the other.
    chain._use_kernels = False
    chain.advance()
    step(chain, buffers)
