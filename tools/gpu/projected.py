# SPDX-License-Identifier: Apache-2.0
"""projected: microseconds a layer takes between two projections, linked to the first or not.

A step of many layers, each a projection, the chain's layer and a projection back, as a model has
them: PyTorch's products, which signal nothing. Once the step says that it has kernels of its own,
which decides how a layer of a single kernel is launched (`BoundChain.links`), and once it denies
it, so that every layer is launched as the dependent of the projection before it. Cold and back to
back as in `tools.gpu.device_time`; the two take turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graphrt.config import RuntimeConfig
from graphrt.kernels.chain import BoundChain
from graphrt.kernels.tensors import LayerInputs, LayerWeights
from graphrt.runtime import DecodeRuntime
from graphrt.step import ChainStep
from tools.gpu.device_time import time_graph
from tools.gpu.settings import Settings
from tools.gpu.workload import TOKENS, captured, describe, random_weights, serving_config

STATES = ((torch.float16, "stochastic"), (torch.float16, "nearest"), (torch.float32, "nearest"))
LAUNCHED = {"as the step says": True, "as a dependent": False}
ROUNDS = 3
REPEATS = 3  # of a round's times


@dataclass(frozen=True, slots=True)
class ProjectedBuffers:
    """hidden: (rows, T, H P). projected: (rows, T, z, x, B, C and dt). out: (rows, T, H, P).
    counts: (rows,) int32, what every launch accepts."""

    hidden: Tensor
    projected: Tensor
    out: Tensor
    counts: Tensor


class ProjectedStep(ChainStep):
    """The chain's layers between projections; ``says_so``: and it says that it has these."""

    def __init__(self, config: RuntimeConfig, weights: list[LayerWeights], says_so: bool) -> None:
        """Draw the projections' weights."""
        super().__init__(config, weights, gated=True)
        self.only_chain = not says_so
        shape = config.shape
        self._inner = shape.heads * shape.head_dim
        width = self._inner + shape.conv_dim + shape.heads
        generator = torch.Generator(config.device).manual_seed(1)

        def drawn(rows: int, columns: int) -> Tensor:
            made = torch.randn(rows, columns, device=config.device, generator=generator)
            return (made / rows**0.5).to(config.activation_dtype)

        self._into = [drawn(self._inner, width) for _ in weights]
        self._back = [drawn(self._inner, self._inner) for _ in weights]

    def buffers(self, bucket: int, tokens: int) -> Any:
        """Return random hidden states, counts that differ from row to row, and room."""
        shape, config = self._config.shape, self._config
        generator = torch.Generator(config.device).manual_seed(bucket)
        room = (bucket, tokens)
        options: dict[str, Any] = {"device": config.device, "dtype": config.activation_dtype}
        row = torch.arange(bucket, dtype=torch.int32, device=config.device)
        return ProjectedBuffers(
            torch.randn(*room, self._inner, generator=generator, **options),
            torch.zeros(*room, self._into[0].shape[1], **options),
            torch.zeros(*room, shape.heads, shape.head_dim, **options),
            1 + (row + 2) % tokens,
        )

    def __call__(self, chain: BoundChain, buffers: Any) -> None:
        """Enqueue every layer, then accept."""
        shape, inner = self._config.shape, self._inner
        hidden = buffers.hidden.view(-1, inner)
        z, xbc, dt = buffers.projected.split([inner, shape.conv_dim, shape.heads], dim=-1)
        inputs = LayerInputs(xbc=xbc, dt=dt, z=z.unflatten(-1, (shape.heads, shape.head_dim)))
        projected = buffers.projected.view(len(hidden), -1)
        for layer, weights in enumerate(self._weights):
            torch.mm(hidden, self._into[layer], out=projected)
            chain.layer(layer, inputs, weights, buffers.out)
            torch.mm(buffers.out.view(-1, inner), self._back[layer], out=hidden)
        chain.accept(buffers.counts)


def projected(settings: Settings) -> dict[str, Any]:
    """Time a layer between projections at every batch, launched either way."""
    failures: list[str] = []
    timings: list[dict[str, Any]] = []
    settings = replace(settings, repeats=min(settings.repeats, REPEATS))
    for dtype, rounding in STATES:
        config = serving_config(
            settings, layers=settings.layers, slots=settings.batches[-1], buckets=settings.batches
        )
        config = replace(config, state_dtype=dtype, rounding=rounding)
        timings += _timings(settings, config, failures)
    return {
        "failures": failures,
        "config": describe(config) | {"state_dtype": "each", "rounding": "each"},
        "tokens": TOKENS,
        "rounds": ROUNDS,
        "timings": timings,
    }


def _timings(
    settings: Settings, config: RuntimeConfig, failures: list[str]
) -> list[dict[str, Any]]:
    """Return the times of a layer in every bucket; append to ``failures`` what is not finite."""
    weights = random_weights(config, torch.Generator(config.device).manual_seed(0))
    with ExitStack() as closing:
        runtimes = {name: closing.enter_context(DecodeRuntime(config)) for name in LAUNCHED}
        timings = list(_turns(settings, config, weights, runtimes, failures))
    return sorted(timings, key=lambda timing: int(timing["batch"]))


def _turns(
    settings: Settings,
    config: RuntimeConfig,
    weights: list[LayerWeights],
    runtimes: dict[str, DecodeRuntime],
    failures: list[str],
) -> Iterator[dict[str, Any]]:
    """Yield a bucket's times, each of ``runtimes`` launched in turn."""
    for name, runtime in runtimes.items():
        runtime.capture(ProjectedStep(config, weights, LAUNCHED[name]), check=False)
        for _ in range(config.slots):
            runtime.admit()
    for graphs in zip(*map(captured, runtimes.values()), strict=True):
        bucket = graphs[0].bucket
        for runtime in runtimes.values():
            runtime.launch(list(range(bucket)))
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in LAUNCHED}
        for _ in range(ROUNDS):
            for name, graph in zip(LAUNCHED, graphs, strict=True):
                taken[name].append(time_graph(settings, graph.graph.launch, config.layers))
        for name, runtime in runtimes.items():
            if not bool(runtime.buffers(bucket).out.isfinite().all()):
                failures.append(f"batch {bucket} {name}: outputs are not finite")
        yield {
            "batch": bucket,
            "layers": config.layers,
            "state_dtype": str(config.state_dtype).removeprefix("torch."),
            "rounding": config.rounding,
            "kernels": [s.name for s in graphs[0].value.chain.stages[1:] if not s.behind],
        } | {name: _medians(times, config.layers) for name, times in taken.items()}


def _medians(times: list[dict[str, float]], layers: int) -> dict[str, float]:
    """Return the medians over rounds, a layer."""
    return {name: statistics.median(t[name] for t in times) / layers for name in times[0]}
