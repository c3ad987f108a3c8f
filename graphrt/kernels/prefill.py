# SPDX-License-Identifier: Apache-2.0
"""Prefill: one layer over a whole prompt at once, by chunked state-space duality (SSD).

The same maths as the chain (conv1d, dt, decays, D skip, optional gate), for any number of tokens
and with autograd, in plain PyTorch. What it leaves behind, the state and the last inputs of the
convolution, is what a slot is admitted with. Formula: Dao and Gu, "Transformers are SSMs", 2024,
section 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from graphrt.config import ChainShape
from graphrt.errors import ConfigError, sentence
from graphrt.kernels.tensors import LayerInputs, LayerWeights

# Chunks whose states are combined by one matrix; longer prompts go block by block, so that memory
# grows with the prompt only by its inputs and outputs.
_BLOCK_CHUNKS = 32


@dataclass(frozen=True, slots=True)
class PrefillResult:
    """What a layer made of a prompt of L tokens. Owned by the caller.

    y: (batch, L, H, P) act. state: (batch, H, P, N) fp32, after the last token. conv_tail:
    (batch, width-1, conv_dim) act, the last inputs of the convolution, zeros before the start.
    """

    y: Tensor
    state: Tensor
    conv_tail: Tensor


def prefill_layer(
    inputs: LayerInputs,
    weights: LayerWeights,
    shape: ChainShape,
    chunk_tokens: int = 64,
    initial: PrefillResult | None = None,
) -> PrefillResult:
    """Run conv1d, precompute and state update over ``inputs`` of (batch, L, ...), any L ≥ 1.

    ``initial`` is the result of the tokens before these, None at the start of a prompt; with it a
    prompt can be run in segments. ``chunk_tokens`` sets the size of the causal blocks: a matter of
    speed and memory, not of the result beyond rounding. Decays, sums and products are fp32 (lower
    only under the caller's autocast). Nothing given is written; differentiable in every tensor.
    Raises ConfigError for inputs that do not fit ``shape``.
    """
    _check(inputs, shape, chunk_tokens)
    batch, length, _ = inputs.xbc.shape
    dtype = inputs.xbc.dtype
    if initial is None:
        tail = inputs.xbc.new_zeros(batch, shape.conv_width - 1, shape.conv_dim)
        state = inputs.xbc.new_zeros(
            batch, shape.heads, shape.head_dim, shape.state_dim, dtype=torch.float32
        )
    else:
        tail, state = initial.conv_tail, initial.state
    block_tokens = _BLOCK_CHUNKS * chunk_tokens
    outputs = []
    for start in range(0, length, block_tokens):
        block = slice(start, start + block_tokens)
        raw = torch.cat([tail, inputs.xbc[:, block]], dim=1)
        tail = raw[:, raw.shape[1] - shape.conv_width + 1 :]
        x, B, C = _split(_causal_conv(raw, weights).to(dtype), shape)
        dt = _processed_dt(inputs.dt[:, block], weights, shape)
        y, state = _chunked_scan(x, dt, weights.A, B, C, state, chunk_tokens)
        if weights.D is not None:
            y = y + weights.D.float()[:, None] * x
        if inputs.z is not None:
            y = y * F.silu(inputs.z[:, block].float())
        outputs.append(y.to(dtype))
    y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return PrefillResult(y, state, tail.clone())  # a view would keep the last block's inputs alive


def _check(inputs: LayerInputs, shape: ChainShape, chunk_tokens: int) -> None:
    batch, length = inputs.xbc.shape[:2]
    expected = {
        "xbc": (inputs.xbc, (batch, length, shape.conv_dim)),
        "dt": (inputs.dt, (batch, length, shape.heads)),
        "z": (inputs.z, (batch, length, shape.heads, shape.head_dim)),
    }
    for name, (tensor, size) in expected.items():
        if tensor is not None and tuple(tensor.shape) != size:
            raise ConfigError(
                sentence(
                    f"{name}.shape",
                    tuple(tensor.shape),
                    f"must be {size} for this ChainShape",
                    "slice the input projection as z | x B C | dt",
                )
            )
    for name, count in (("prompt tokens", length), ("chunk_tokens", chunk_tokens)):
        if count < 1:
            raise ConfigError(sentence(name, count, "must be ≥ 1", "pass at least one token"))


def _causal_conv(raw: Tensor, weights: LayerWeights) -> Tensor:
    """Return silu(conv1d) in fp32, (batch, L, conv_dim), of ``raw`` (batch, width-1+L, conv_dim).

    Shifted products: a depthwise convolution of so few taps is all memory traffic, and this form
    reads ``raw`` where it lies.
    """
    taps = weights.conv_weight.float().unbind(1)
    length = raw.shape[1] - len(taps) + 1
    out = raw[:, :length] * taps[0]
    for k, tap in enumerate(taps[1:], start=1):
        out = out + raw[:, k : k + length] * tap
    if weights.conv_bias is not None:
        out = out + weights.conv_bias.float()
    return F.silu(out)


def _split(conv: Tensor, shape: ChainShape) -> tuple[Tensor, Tensor, Tensor]:
    """Return views x (batch, L, H, P), B and C (batch, L, G, N) of the convolution's output."""
    bc = shape.groups * shape.state_dim
    x, B, C = conv.split([shape.inner_dim, bc, bc], dim=-1)
    return (
        x.unflatten(-1, (shape.heads, shape.head_dim)),
        B.unflatten(-1, (shape.groups, shape.state_dim)),
        C.unflatten(-1, (shape.groups, shape.state_dim)),
    )


def _processed_dt(dt: Tensor, weights: LayerWeights, shape: ChainShape) -> Tensor:
    """Return clamp(softplus(dt + dt_bias), dt_min, dt_max) in fp32."""
    dt = dt.float()
    if weights.dt_bias is not None:
        dt = dt + weights.dt_bias.float()
    return F.softplus(dt, threshold=20.0).clamp(shape.dt_min, shape.dt_max)


def _chunked_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """Return y (batch, L, H, P) without skip, and the state (batch, H, P, N) after it, in fp32.

    x: (batch, L, H, P). dt: (batch, L, H), processed. B, C: (batch, L, G, N). In the comments
    c counts chunks, q tokens of a chunk, r heads of a group.
    """
    batch, length, heads, head_dim = x.shape
    groups, state_dim = B.shape[2:]
    chunk = min(chunk_tokens, length)
    # Padding tokens have dt = 0: they decay nothing and add nothing to the state.
    x, dt, B, C = (_to_chunks(tensor.float(), chunk) for tensor in (x, dt, B, C))
    B, C = B.transpose(2, 3), C.transpose(2, 3)  # (batch, c, G, q, N)
    # In fp64, because decays are exp of differences of these sums, which may be long.
    cum = (dt * A).double().cumsum(2)  # (batch, c, q, H)
    xdt = x * dt[..., None]  # (batch, c, q, H, P)

    # 1. Within each chunk: the causal matrix times x.
    decay = _segment_decay(cum.transpose(2, 3)).unflatten(2, (groups, -1))  # (batch, c, G, r, q, q)
    scores = C @ B.transpose(-1, -2)  # (batch, c, G, q, q)
    causal = (scores[:, :, :, None] * decay).flatten(2, 3)  # (batch, c, H, q, q)
    y = (causal @ xdt.transpose(2, 3)).transpose(2, 3)  # (batch, c, q, H, P)

    # 2. What each chunk adds to the state.
    to_end = torch.exp((cum[:, :, -1:] - cum).float())
    weighted = (xdt * to_end[..., None]).unflatten(3, (groups, -1)).flatten(4)  # (…, q, G, r*P)
    added = weighted.permute(0, 1, 3, 4, 2) @ B  # (batch, c, G, r*P, N)
    added = added.reshape(batch, -1, heads, head_dim * state_dim)

    # 3. The state before each chunk, and after the last.
    total = F.pad(cum[:, :, -1], (0, 0, 1, 0)).cumsum(1)  # (batch, c+1, H)
    states = torch.cat([state.reshape(batch, 1, heads, -1).float(), added], dim=1)
    states = _segment_decay(total.transpose(1, 2)) @ states.transpose(1, 2)  # (batch, H, c+1, P*N)
    final = states[:, :, -1].float().unflatten(-1, (head_dim, state_dim))

    # 4. What the state before each chunk adds to its tokens.
    before = states[:, :, :-1].transpose(1, 2).unflatten(-1, (head_dim, state_dim))
    before = before.reshape(batch, -1, groups, heads // groups * head_dim, state_dim)
    carried = (C @ before.transpose(-1, -2)).transpose(2, 3)  # (batch, c, q, G, r*P)
    y = y + carried.reshape(x.shape) * torch.exp(cum.float())[..., None]
    return y.reshape(batch, -1, heads, head_dim)[:, :length], final


def _to_chunks(tensor: Tensor, chunk: int) -> Tensor:
    """Return (batch, L, ...) as (batch, c, chunk, ...), zeros after the end."""
    missing = -tensor.shape[1] % chunk
    if missing:
        tensor = F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, missing))
    chunks: Tensor = tensor.unflatten(1, (-1, chunk))
    return chunks


def _segment_decay(cum: Tensor) -> Tensor:
    """Return exp(cum_t - cum_j) for j ≤ t, else 0: (..., q) fp64 to (..., q, q) fp32.

    Masked before exp: above the diagonal the difference is positive and could overflow, and an
    infinity there would turn the gradient into NaN.
    """
    q = cum.shape[-1]
    future = torch.ones(q, q, dtype=torch.bool, device=cum.device).triu(1)
    difference = (cum[..., :, None] - cum[..., None, :]).float()
    return torch.exp(difference.masked_fill(future, float("-inf")))
