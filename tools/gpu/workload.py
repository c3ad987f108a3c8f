# SPDX-License-Identifier: Apache-2.0
"""What the sections launch: a serving configuration, its weights, inputs and requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from graphrt.bench.workload import random_weights as layer_weights
from graphrt.cache import Prefilled
from graphrt.capture.bucket_graphs import BucketGraph
from graphrt.config import PdlLinks, RuntimeConfig
from graphrt.kernels.tensors import LayerWeights
from graphrt.runtime import DecodeRuntime
from graphrt.step import ChainBuffers
from tools.gpu.settings import Settings

TOKENS, WINDOW = 6, 16


def serving_config(
    settings: Settings,
    *,
    layers: int,
    slots: int,
    buckets: tuple[int, ...],
    launch_tokens: tuple[int, ...] = (TOKENS,),
    pdl: bool = True,
) -> RuntimeConfig:
    """Return T 6, W 16, bf16 activations, fp16 state rounded stochastically."""
    return RuntimeConfig(
        shape=settings.shape,
        layers=layers,
        slots=slots,
        tokens=TOKENS,
        window=WINDOW,
        buckets=buckets,
        launch_tokens=launch_tokens,
        state_dtype=torch.float16,
        rounding="stochastic",
        device=settings.device,
        pdl=PdlLinks(conv1d=pdl, precompute=pdl, state_update=pdl),
    )


def describe(config: RuntimeConfig) -> dict[str, object]:
    """Return a configuration as JSON has it."""
    shape = config.shape
    return {
        "heads": shape.heads,
        "head_dim": shape.head_dim,
        "state_dim": shape.state_dim,
        "groups": shape.groups,
        "conv_width": shape.conv_width,
        "layers": config.layers,
        "slots": config.slots,
        "window": config.window,
        "launch_tokens": list(config.launch_tokens),
        "buckets": list(config.buckets),
        "state_dtype": str(config.state_dtype).removeprefix("torch."),
        "activation_dtype": str(config.activation_dtype).removeprefix("torch."),
        "rounding": config.rounding,
        "pdl": config.pdl == PdlLinks(),
    }


def random_weights(config: RuntimeConfig, generator: torch.Generator) -> list[LayerWeights]:
    """Return weights for every layer of ``config``."""
    dtype = config.activation_dtype
    return [layer_weights(config.shape, dtype, generator) for _ in range(config.layers)]


def random_request(config: RuntimeConfig, generator: torch.Generator) -> Prefilled:
    """Return what a prompt might have left behind."""
    shape, device = config.shape, config.device
    dims = (config.layers, shape.heads, shape.head_dim, shape.state_dim)
    tail = (config.layers, shape.conv_width - 1, shape.conv_dim)
    return Prefilled(
        state=torch.randn(dims, device=device, generator=generator),
        conv_tail=torch.randn(tail, device=device, generator=generator),
    )


def fill_inputs(buffers: ChainBuffers, generator: torch.Generator) -> None:
    """Draw new inputs into all rows of the static buffers, on the device, without waiting."""
    buffers.xbc.normal_(generator=generator)
    buffers.dt.normal_(generator=generator)


def captured(runtime: DecodeRuntime) -> Iterator[BucketGraph[Any]]:
    """Yield the runtime's graphs, in the order they were captured."""
    # Reading graphs is for tools and tests; users launch through the runtime.
    return iter(runtime._graphs)


def synchronize(device: torch.device) -> None:
    """Wait for the device; a CPU has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
