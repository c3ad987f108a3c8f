# SPDX-License-Identifier: Apache-2.0
"""Mamba-2 language model under Hugging Face's tensor names: whole prompts, and decode steps.

Symbols: H heads, P head_dim, N state_dim, G groups, d hidden_size, ``inner = H * P``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphrt.cache import Prefilled
from graphrt.config import resolve_device
from graphrt.errors import CheckpointError, ConfigError, sentence
from graphrt.kernels.prefill import PrefillResult, prefill_layer
from graphrt.kernels.tensors import LayerInputs, LayerWeights
from graphrt.models.checkpoint import read_checkpoint
from graphrt.models.config import Mamba2Config

_LM_HEAD = "lm_head.weight"
_EMBEDDINGS = "backbone.embeddings.weight"
# The decays' parameters: tiny, and the chain computes with them in fp32 whatever the model's dtype.
_FP32_PARAMETERS = ("A_log", "dt_bias", "D")
# Prompts run in segments of so many tokens, which bounds the memory a long one takes.
_SEGMENT_TOKENS = 2048


class RMSNorm(nn.Module):
    """``weight * x / rms(x)`` over the last dimension, computed in fp32, returned in its dtype."""

    def __init__(self, size: int, eps: float) -> None:
        """Make a norm over ``size`` values."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., size) in the weight's dtype."""
        x = x.float()
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * x.to(self.weight.dtype)


class GatedRMSNorm(nn.Module):
    """``weight * g / rms(g)`` with ``g = y * silu(z)``, the rms taken group by group."""

    def __init__(self, size: int, groups: int, eps: float) -> None:
        """Make a norm over ``size`` values in ``groups`` equal groups."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.groups = groups
        self.eps = eps

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Return (..., size) in the weight's dtype, of ``y`` and its gate ``z``, any dtype."""
        gated = (y.float() * F.silu(z.float())).unflatten(-1, (self.groups, -1))
        gated = gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + self.eps)
        scaled: Tensor = self.weight * gated.flatten(-2).to(self.weight.dtype)
        return scaled


class Mixer(nn.Module):
    """One Mamba-2 mixer: input projection, chain (or prefill), gated norm, output projection."""

    def __init__(self, config: Mamba2Config) -> None:
        """Make the parameters, under Hugging Face's names."""
        super().__init__()
        self.shape = shape = config.chain_shape
        self.in_proj = nn.Linear(
            config.hidden_size, shape.inner_dim + shape.conv_dim + shape.heads, bias=config.use_bias
        )
        # Holds the parameters under their stored names; prefill and the chain do the convolving.
        self.conv1d = nn.Conv1d(
            shape.conv_dim,
            shape.conv_dim,
            shape.conv_width,
            groups=shape.conv_dim,
            bias=config.use_conv_bias,
        )
        self.dt_bias = nn.Parameter(torch.empty(shape.heads))
        self.A_log = nn.Parameter(torch.empty(shape.heads))
        self.D = nn.Parameter(torch.empty(shape.heads))
        self.norm = GatedRMSNorm(shape.inner_dim, shape.groups, config.layer_norm_epsilon)
        self.out_proj = nn.Linear(shape.inner_dim, config.hidden_size, bias=config.use_bias)

    def forward(
        self, hidden: Tensor, initial: PrefillResult | None = None
    ) -> tuple[Tensor, PrefillResult]:
        """Return (batch, L, d) for normed ``hidden`` (batch, L, d), and what the layer leaves."""
        inputs, z = self.project(hidden)
        result = prefill_layer(inputs, self.chain_weights(), self.shape, initial=initial)
        return self.merge(result.y, z), result

    def project(self, hidden: Tensor) -> tuple[LayerInputs, Tensor]:
        """Return the chain's inputs and the norm's gate (..., inner), all views of one product."""
        shape = self.shape
        z, xbc, dt = self.in_proj(hidden).split(
            [shape.inner_dim, shape.conv_dim, shape.heads], dim=-1
        )
        return LayerInputs(xbc=xbc, dt=dt), z

    def merge(self, y: Tensor, z: Tensor) -> Tensor:
        """Return (..., d) for the chain's output ``y`` (..., H, P) and the gate ``z``."""
        merged: Tensor = self.out_proj(self.norm(y.flatten(-2), z))
        return merged

    def chain_weights(self) -> LayerWeights:
        """Return the weights the chain reads, A computed from its logarithm."""
        return LayerWeights(
            conv_weight=self.conv1d.weight.squeeze(1),
            conv_bias=self.conv1d.bias,
            A=-torch.exp(self.A_log.float()),
            dt_bias=self.dt_bias,
            D=self.D,
        )


class Block(nn.Module):
    """One residual block: ``hidden + mixer(norm(hidden))``."""

    def __init__(self, config: Mamba2Config) -> None:
        """Make norm and mixer."""
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mixer = Mixer(config)


class Backbone(nn.Module):
    """Embeddings, blocks, and the final norm."""

    def __init__(self, config: Mamba2Config) -> None:
        """Make ``config.num_hidden_layers`` blocks."""
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.residual_in_fp32 = config.residual_in_fp32

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return the residual stream (..., d) of ``input_ids`` (...)."""
        hidden: Tensor = self.embeddings(input_ids)
        return hidden.float() if self.residual_in_fp32 else hidden


class Mamba2LM(nn.Module):
    """A Mamba-2 language model; its state_dict has Hugging Face's names and shapes."""

    def __init__(self, config: Mamba2Config) -> None:
        """Make an untrained model; `from_pretrained` makes a trained one."""
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.lm_head: nn.Linear | None = None
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Mamba2LM:
        """Load config.json and the safetensors of ``directory``, ready for inference.

        device: default the current CUDA device, else the CPU. dtype: of the weights and
        activations, default as stored; A_log, dt_bias and D become fp32. Raises CheckpointError for
        a directory that cannot be loaded, ConfigError for a configuration that is not supported.
        """
        config = Mamba2Config.from_directory(directory)
        device = resolve_device(device)
        with torch.device("meta"):
            model = cls(config)
        expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
        # Some files of tied models store the head once more.
        optional = {_LM_HEAD: expected[_EMBEDDINGS]} if config.tie_word_embeddings else {}
        tensors = read_checkpoint(directory, expected | optional, frozenset(optional), device)
        if config.tie_word_embeddings:
            _drop_tied_head(tensors)
        for name, tensor in tensors.items():
            fp32 = name.rpartition(".")[2] in _FP32_PARAMETERS
            tensors[name] = tensor.to(torch.float32 if fp32 else dtype or tensor.dtype)
        model.load_state_dict(tensors, assign=True)
        return model.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and activations."""
        return self.backbone.embeddings.weight.dtype

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return fp32 logits (batch, L, vocab) of ``input_ids`` (batch, L); differentiable."""
        hidden, _ = self._run(input_ids, [None] * len(self.blocks))
        return self.logits(hidden)

    @torch.no_grad()
    def prefill(self, input_ids: Tensor | Sequence[int]) -> tuple[Tensor, Prefilled]:
        """Run one prompt of L ≥ 1 tokens, (L,) ids on any device.

        Returns the fp32 logits (vocab,) after its last token, and what to admit its slot with.
        Raises ConfigError for an empty prompt.
        """
        ids = torch.as_tensor(input_ids, dtype=torch.long, device=self.device)
        if ids.dim() != 1 or not len(ids):
            raise ConfigError(
                sentence("prompt.shape", tuple(ids.shape), "must be (L,), L ≥ 1", "pass token ids")
            )
        results: Sequence[PrefillResult | None] = [None] * len(self.blocks)
        for segment in ids.split(_SEGMENT_TOKENS):
            hidden, results = self._run(segment[None], results)
        state = torch.cat([result.state for result in results if result])
        conv_tail = torch.cat([result.conv_tail for result in results if result])
        return self.logits(hidden[0, -1]), Prefilled(state=state, conv_tail=conv_tail)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return fp32 logits (..., vocab) of the residual stream (..., d) after the last block."""
        weight = self.backbone.embeddings.weight if self.lm_head is None else self.lm_head.weight
        return F.linear(self.backbone.norm_f(hidden), weight).float()

    @property
    def blocks(self) -> Sequence[Block]:
        """The residual blocks, first to last."""
        return cast("Sequence[Block]", self.backbone.layers)

    def _run(
        self, input_ids: Tensor, initial: Sequence[PrefillResult | None]
    ) -> tuple[Tensor, list[PrefillResult]]:
        hidden = self.backbone.embed(input_ids)
        results = []
        for block, before in zip(self.blocks, initial, strict=True):
            mixed, result = block.mixer(block.norm(hidden), before)
            hidden = hidden + mixed
            results.append(result)
        return hidden, results


def _drop_tied_head(tensors: dict[str, Tensor]) -> None:
    """Remove a head that is stored although it is tied; raise CheckpointError if it differs."""
    head = tensors.pop(_LM_HEAD, None)
    if head is not None and not torch.equal(head, tensors[_EMBEDDINGS]):
        raise CheckpointError(
            sentence(
                "tie_word_embeddings",
                True,
                f"{_LM_HEAD} is stored and differs from {_EMBEDDINGS}",
                "set tie_word_embeddings to false in config.json if the head is its own",
            )
        )
