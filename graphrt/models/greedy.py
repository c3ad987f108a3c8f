# SPDX-License-Identifier: Apache-2.0
"""The captured step of greedy speculative decoding: model, verification and acceptance in one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphrt.capture.inspect.manifest import Manifest, Role
from graphrt.kernels.chain import BoundChain
from graphrt.models.mamba2 import Mamba2LM


@dataclass(frozen=True, slots=True)
class GreedyBuffers:
    """Static buffers of one (bucket, T); rows 0 … are the requests of a launch, in its order.

    input_ids: (rows, T) int64, written by the caller: the confirmed token, then T-1 drafts. logits:
    (rows, T, vocab) fp32, after each of them. next_ids: (rows, T) int64, their greedy choice.
    counts: (rows,) int32, how many of the T tokens are kept, 1 … T: the row's new tokens are
    ``next_ids[row, :counts[row]]``, the last of which is its next confirmed token. y: (rows, T, H,
    P) act, the chain's output, layer after layer.
    """

    input_ids: Tensor
    logits: Tensor
    next_ids: Tensor
    counts: Tensor
    y: Tensor


class GreedyStep:
    """A `graphrt.step.Step` that decodes greedily: drafts are kept while the model agrees.

    Token t+1 of a launch is kept when it and all before it are what the model chose after token t.
    The counts are accepted on the device, so the host has nothing to write between launches.
    """

    outputs = frozenset({"logits", "next_ids", "counts", "y"})
    only_chain = False

    def __init__(self, model: Mamba2LM) -> None:
        """Take the model whose dtype and device are the runtime's; its weights must stay put."""
        self._model = model
        with torch.no_grad():
            self._weights = [block.mixer.chain_weights() for block in model.blocks]

    def buffers(self, bucket: int, tokens: int) -> GreedyBuffers:
        """Return zeroed buffers on the model's device."""
        config, device = self._model.config, self._model.device
        shape = config.chain_shape
        ids = torch.zeros(bucket, tokens, dtype=torch.int64, device=device)
        heads = (bucket, tokens, shape.heads, shape.head_dim)
        return GreedyBuffers(
            input_ids=ids,
            logits=torch.zeros(bucket, tokens, config.vocab_size, device=device),
            next_ids=torch.zeros_like(ids),
            counts=torch.zeros(bucket, dtype=torch.int32, device=device),
            y=torch.zeros(heads, dtype=self._model.dtype, device=device),
        )

    def declare_weights(self, manifest: Manifest) -> None:
        """Declare the model's parameters by their own names, and A, which is made from A_log."""
        manifest.declare_module(self._model)
        for layer, weights in enumerate(self._weights):
            manifest.declare(f"layers.{layer}.A", weights.A, Role.WEIGHT)

    @torch.no_grad()
    def __call__(self, chain: BoundChain, buffers: GreedyBuffers) -> None:
        """Enqueue one step: embeddings, every block, logits, verification, acceptance."""
        model = self._model
        hidden = model.backbone.embed(buffers.input_ids)
        for layer, (block, weights) in enumerate(zip(model.blocks, self._weights, strict=True)):
            inputs, z = block.mixer.project(block.norm(hidden))
            chain.layer(layer, inputs, weights, buffers.y)
            hidden = hidden + block.mixer.merge(buffers.y, z)
        buffers.logits.copy_(model.logits(hidden))
        torch.argmax(buffers.logits, dim=-1, out=buffers.next_ids)
        agreed = (buffers.input_ids[:, 1:] == buffers.next_ids[:, :-1]).int()
        buffers.counts.copy_(1 + agreed.cumprod(dim=1).sum(dim=1))
        chain.accept(buffers.counts)
