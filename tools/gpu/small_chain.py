# SPDX-License-Identifier: Apache-2.0
"""A small chain, in graphs and out of them, for compute-sanitizer to watch.

    compute-sanitizer --tool memcheck python -m tools.gpu.small_chain

Sizes fill no tile, so that every mask matters. Both T, padding, flushes, ring wrap-around and a
recycled slot occur, with three kernels a layer, with two and with one: the state in registers, in
shared memory, from which a flush stores it, and in those of two warps.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from graphrt.cache import ReplayCache
from graphrt.config import ChainShape, RuntimeConfig, resolve_device
from graphrt.kernels import chain as chain_module
from graphrt.kernels.chain import BoundChain
from graphrt.kernels.tuning import ChainLaunch, FusedLaunch, lookup
from graphrt.runtime import DecodeRuntime
from graphrt.step import ChainStep
from tools.gpu.workload import fill_inputs, random_request, random_weights

LAUNCHES = 12
CHAINS: tuple[dict[str, FusedLaunch | None], ...] = (
    {"fused": None, "single": None},
    {"fused": FusedLaunch(16, in_shared=True), "single": None},
    {"single": FusedLaunch(16, 2)},
)


def main() -> None:
    """Run it; exit with a traceback if an output is not finite or nothing was flushed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", help="default: the GPU")
    args = parser.parse_args()
    allocator = "plain" if os.environ.get("PYTORCH_NO_CUDA_MEMORY_CACHING") == "1" else "caching"
    flushes = 0
    for chosen in CHAINS:

        def found(*given: Any, chosen: dict[str, Any] = chosen, **named: Any) -> ChainLaunch:
            return replace(lookup(*given, **named), **chosen)

        with mock.patch.object(chain_module, "lookup", found):
            flushes += run(resolve_device(args.device))
    print(f"small chain done: {flushes} flushes, {allocator} allocator")


def run(device: torch.device) -> int:
    """Launch graphs, then the chain without one; return how many rows flushed."""
    config = RuntimeConfig(
        shape=ChainShape(heads=2, head_dim=24, state_dim=20, groups=2),
        layers=2,
        slots=3,
        tokens=3,
        window=5,
        buckets=(2,),
        launch_tokens=(1, 3),
        state_dtype=torch.float16,
        rounding="stochastic",
        device=device,
    )
    generator = torch.Generator(device).manual_seed(0)
    step = ChainStep(config, random_weights(config, generator), gated=True)
    flushes = torch.zeros((), dtype=torch.int64, device=device)

    def check(cache: ReplayCache, out: torch.Tensor) -> None:
        flushes.add_(cache.cursors.flushed.sum())
        if not bool(out.isfinite().all()):
            raise AssertionError("an output is not finite")

    with DecodeRuntime(config) as runtime:
        runtime.capture(step)
        slots = [runtime.admit(random_request(config, generator)), runtime.admit()]
        counts = torch.tensor([1, 1], dtype=torch.int32, device=device)
        for launch in range(LAUNCHES):
            tokens = 1 if launch % 3 == 2 else 3
            rows = slots[:1] if launch % 4 == 3 else slots
            buffers = runtime.buffers(2, tokens)
            fill_inputs(buffers, generator)
            buffers.z.normal_(generator=generator)
            runtime.launch(rows, tokens=tokens)
            check(runtime.cache, buffers.out)
            if launch % 2:
                runtime.accept(counts[: len(rows)])
            else:
                runtime.accept([tokens] * len(rows))
            if launch == LAUNCHES // 2:
                runtime.release(slots.pop())
                slots.append(runtime.admit(random_request(config, generator)))

        slot_ids = torch.tensor([slots[0], -1], dtype=torch.int32, device=device)
        chain = BoundChain(runtime.cache, slot_ids, 3)
        for _ in range(3):
            chain.advance()
            step(chain, runtime.buffers(2, 3))
            chain.accept(torch.tensor([3, 0], dtype=torch.int32, device=device))
            check(runtime.cache, runtime.buffers(2, 3).out)
    if not int(flushes):
        raise AssertionError("no launch flushed")
    return int(flushes)


if __name__ == "__main__":
    main()
