# SPDX-License-Identifier: Apache-2.0
"""A small DecodeRuntime on the GPU with the chain captured, and proof that nothing changed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from graphrt import ChainShape, ChainStep, DecodeRuntime, RuntimeConfig
from graphrt.cache import ReplayCache
from tools.gpu.compare import check_same_bits, copy_cache
from tools.gpu.workload import random_request, random_weights

DEVICE = torch.device("cuda", 0)
SHAPE = ChainShape(heads=4, head_dim=16, state_dim=16, groups=2)
WHILE = 200_000_000  # cycles that the device is kept busy with, about a tenth of a second


def config(device: torch.device = DEVICE, **changes: Any) -> RuntimeConfig:
    sizes: dict[str, Any] = {
        "layers": 2,
        "slots": 8,
        "tokens": 3,
        "window": 8,
        "buckets": (4,),
        "launch_tokens": (1, 3),
        "state_dtype": torch.bfloat16,
        "rounding": "stochastic",
    }
    return RuntimeConfig(shape=SHAPE, device=device, **sizes | changes)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(seed)


@contextmanager
def captured_chain(
    chosen: RuntimeConfig, seed: int = 0
) -> Iterator[tuple[DecodeRuntime, ChainStep]]:
    step = ChainStep(chosen, random_weights(chosen, generator(seed)))
    with DecodeRuntime(chosen) as runtime:
        runtime.capture(step)
        yield runtime, step


def admit(runtime: DecodeRuntime, count: int, seed: int = 0) -> list[int]:
    drawn = generator(seed)
    return [runtime.admit(random_request(runtime.config, drawn), seed=s) for s in range(count)]


def draw(chosen: RuntimeConfig, rows: int, tokens: int, seed: int) -> dict[str, Tensor]:
    """Return inputs of a launch, in host memory."""
    drawn = torch.Generator().manual_seed(seed)
    dims = (rows, chosen.layers, tokens)
    return {
        "xbc": torch.randn(*dims, SHAPE.conv_dim, generator=drawn),
        "dt": torch.randn(*dims, SHAPE.heads, generator=drawn),
    }


def decode(runtime: DecodeRuntime, rows: list[int], launches: int, seed: int = 0) -> list[Tensor]:
    """Launch ``rows`` with T 3 and accept random counts; return what came out."""
    rng = random.Random(seed)
    outs = []
    for launch in range(launches):
        inputs = draw(runtime.config, len(rows), 3, 1000 * seed + launch)
        outs.append(runtime.launch(rows, **inputs).out[: len(rows)].clone())
        runtime.accept([rng.randint(0, 3) for _ in rows])
    return outs


def check_all_same_bits(got: list[Tensor], expected: list[Tensor]) -> None:
    for launch, (one, other) in enumerate(zip(got, expected, strict=True)):
        assert one.isfinite().all()
        check_same_bits(one, other, f"y of launch {launch}")


@contextmanager
def nothing_changes(runtime: DecodeRuntime, rows: list[int]) -> Iterator[None]:
    """Require that ``rows`` decode after the block as they would have before it."""
    saved = ReplayCache(runtime.config)
    copy_cache(runtime.cache, saved)
    before = decode(runtime, rows, 5)
    yield
    copy_cache(saved, runtime.cache)
    check_all_same_bits(decode(runtime, rows, 5), before)
