# SPDX-License-Identifier: Apache-2.0
"""What is captured: a step over named static buffers, and the step that is the chain alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from graphrt.capture.buffers import named_tensors
from graphrt.capture.inspect.manifest import Manifest, Role
from graphrt.config import RuntimeConfig
from graphrt.errors import ConfigError, sentence
from graphrt.kernels.chain import BoundChain
from graphrt.kernels.tensors import LayerInputs, LayerWeights


class Step(Protocol):
    """Any callable over static buffers that calls the chain once per layer: a whole model's step.

    Captured once per (bucket, T). It must enqueue the same work whatever the buffers hold, decide
    nothing on the host, and give its results by writing into the buffers. One that is also a
    `graphrt.declared.Declares` has all its pointers checked when it is captured.
    """

    def buffers(self, bucket: int, tokens: int) -> Any:
        """Return a dataclass of named tensors on the runtime's device, dimension 0 the row.

        Called once per (bucket, T); the runtime keeps them for as long as the graph lives. They
        must hold valid values from the start: padding rows are computed like any other.
        """

    def __call__(self, chain: BoundChain, buffers: Any) -> None:
        """Enqueue one step on the current stream. ``chain.advance`` has been enqueued before."""


@dataclass(frozen=True, slots=True)
class ChainBuffers:
    """Inputs and output of the chain alone, for all layers.

    xbc: (rows, layers, T, conv_dim), dt: (rows, layers, T, H), z: (rows, layers, T, H, P) or None,
    written by the caller. out: (rows, layers, T, H, P), written by the launch. Activation dtype.
    """

    xbc: Tensor
    dt: Tensor
    z: Tensor | None
    out: Tensor


class ChainStep:
    """The chain alone, layer after layer over inputs that the caller provides."""

    outputs = frozenset({"out"})
    only_chain = True

    def __init__(
        self, config: RuntimeConfig, weights: Sequence[LayerWeights], *, gated: bool = False
    ) -> None:
        """Take one LayerWeights per layer of ``config``; ``gated`` adds a z input."""
        if len(weights) != config.layers:
            raise ConfigError(
                sentence(
                    "weights",
                    f"{len(weights)} layers",
                    f"must be one LayerWeights per layer ({config.layers})",
                    "pass one for each",
                )
            )
        self._config = config
        self._weights = tuple(weights)
        self._gated = gated

    def buffers(self, bucket: int, tokens: int) -> ChainBuffers:
        """Return zeroed buffers."""
        shape, layers = self._config.shape, self._config.layers

        def zeros(*dims: int) -> Tensor:
            return torch.zeros(
                bucket,
                layers,
                tokens,
                *dims,
                dtype=self._config.activation_dtype,
                device=self._config.device,
            )

        heads = (shape.heads, shape.head_dim)
        return ChainBuffers(
            xbc=zeros(shape.conv_dim),
            dt=zeros(shape.heads),
            z=zeros(*heads) if self._gated else None,
            out=zeros(*heads),
        )

    def declare_weights(self, manifest: Manifest) -> None:
        """Declare every weight of every layer as ``layers.LAYER.NAME``."""
        for layer, weights in enumerate(self._weights):
            manifest.declare_all(named_tensors(weights), Role.WEIGHT, prefix=f"layers.{layer}.")

    def __call__(self, chain: BoundChain, buffers: ChainBuffers) -> None:
        """Enqueue every layer."""
        for layer, weights in enumerate(self._weights):
            inputs = LayerInputs(
                xbc=buffers.xbc[:, layer],
                dt=buffers.dt[:, layer],
                z=None if buffers.z is None else buffers.z[:, layer],
            )
            chain.layer(layer, inputs, weights, buffers.out[:, layer])
