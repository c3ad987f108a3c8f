# SPDX-License-Identifier: Apache-2.0
"""Storing an fp32 state in fewer bits: to nearest, or stochastically.

Stochastic rounding takes the lower or the upper neighbour with a probability equal to how far the
value has got between them, so that its mean error is zero. The random words come from Philox4x32-10
(Salmon et al., SC 2011), keyed by the slot's ``rand_seed`` with counter (quad, layer, 0, 0), where
quad numbers the groups of four consecutive state elements along N. One call serves four elements.
The draws depend on the slot's seed and the element alone, never on the batch around it. Kernel and
twin give the same bits on every architecture.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_FP16_MIN_NORMAL = 2.0**-14
_FP16_SUBNORMALS_PER_ONE = 2.0**24


@triton.jit
def stochastic_words(seed, quads, layer, ROWS: tl.constexpr, QUADS: tl.constexpr):
    """Return (ROWS, 4 * QUADS) uint32 random words for the element quads numbered ``quads``."""
    zero = quads * 0
    w0, w1, w2, w3 = tl.philox(seed, quads, zero + layer, zero, zero)
    even_odd = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # [ROWS, QUADS, 2, 2], last two: word 2i+j
    return tl.reshape(even_odd, [ROWS, 4 * QUADS])


@triton.jit
def round_stochastic(value, words, DTYPE: tl.constexpr):
    """Return fp32 ``value`` as DTYPE (bf16 or fp16), rounded by the random ``words``."""
    bits = value.to(tl.uint32, bitcast=True)
    if DTYPE == tl.bfloat16:
        rounded = ((bits + (words & 0xFFFF)) & 0xFFFF0000).to(tl.float32, bitcast=True)
    else:
        normal = ((bits + (words & 0x1FFF)) & 0xFFFFE000).to(tl.float32, bitcast=True)
        # Below fp16's smallest normal the spacing is constant, so count subnormals instead.
        magnitude = tl.abs(value) * 16777216.0
        below = tl.floor(magnitude)
        uniform = (words & 0xFFFFFF).to(tl.float32) * (1.0 / 16777216.0)
        counted = tl.where(uniform < magnitude - below, below + 1.0, below) * (1.0 / 16777216.0)
        signed = counted.to(tl.uint32, bitcast=True) | (bits & 0x80000000)
        subnormal = signed.to(tl.float32, bitcast=True)
        rounded = tl.where(tl.abs(value) < 6.103515625e-05, subnormal, normal)
    # Adding to the bits of a NaN can carry into its sign and exponent: pass it through.
    return tl.where(value == value, rounded, value).to(DTYPE)


def philox_words(seed: Tensor, quad: Tensor, layer: Tensor, rounds: int = 10) -> list[Tensor]:
    """Return Philox4x32's four words for each (seed, quad, layer), as int64 in 0 … 2**32 - 1.

    The three int64 tensors broadcast together.
    """
    low = 0xFFFFFFFF
    key0, key1 = seed & low, (seed >> 32) & low
    zero = torch.zeros_like(quad + layer + seed)
    c0, c1, c2, c3 = zero + quad, zero + layer, zero, zero
    for _ in range(rounds):
        # int64 products wrap, but bits 0 … 63 are those of the unsigned product all the same.
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = ((b >> 32) & low) ^ c1 ^ key0, ((a >> 32) & low) ^ c3 ^ key1
        c1, c3 = b & low, a & low
        key0, key1 = (key0 + 0x9E3779B9) & low, (key1 + 0xBB67AE85) & low
    return [c0, c1, c2, c3]


def state_words(seed: Tensor, layers: Tensor, heads: int, head_dim: int, state_dim: int) -> Tensor:
    """Return the random words of whole states: (..., H, P, N) for ``seed`` and ``layers`` of (...).

    Quads are numbered as the state update does: ``(h * P + p) * ceil(N / 4) + n // 4``.
    """
    quads_per_row = -(-state_dim // 4)
    quads = torch.arange(heads * head_dim * quads_per_row, device=seed.device)
    words = torch.stack(philox_words(seed[..., None], quads, layers[..., None]), dim=-1)
    by_row = words.reshape(*seed.shape, heads, head_dim, 4 * quads_per_row)
    return by_row[..., :state_dim]


def round_stochastic_reference(value: Tensor, words: Tensor, dtype: torch.dtype) -> Tensor:
    """Twin of `round_stochastic`: fp32 ``value`` as ``dtype``; ``words`` are int64, one a value."""
    bits = value.contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    dropped = 0xFFFF if dtype == torch.bfloat16 else 0x1FFF
    kept = (bits + (words & dropped)) & (0xFFFFFFFF ^ dropped)
    rounded = torch.where(kept >= 2**31, kept - 2**32, kept).to(torch.int32).view(torch.float32)
    if dtype == torch.float16:
        magnitude = value.abs() * _FP16_SUBNORMALS_PER_ONE
        below = magnitude.floor()
        uniform = (words & 0xFFFFFF).to(torch.float32) / 2.0**24
        counted = (below + (uniform < magnitude - below)) / _FP16_SUBNORMALS_PER_ONE
        small = value.abs() < _FP16_MIN_NORMAL
        rounded = torch.where(small, torch.copysign(counted, value), rounded)
    return torch.where(value.isnan(), value, rounded).to(dtype)


def round_state_reference(state: Tensor, dtype: torch.dtype, seed: int | None) -> Tensor:
    """Return one slot's fp32 ``state`` (layers, H, P, N) in ``dtype``.

    Stochastically with ``seed``, to nearest without one.
    """
    if seed is None or dtype == torch.float32:
        return state.to(dtype)
    rounded = torch.empty_like(state, dtype=dtype)
    key = torch.tensor(seed, device=state.device)
    for layer in range(state.shape[0]):  # one at a time: the words take 8 bytes an element
        words = state_words(key, torch.full_like(key, layer), *state.shape[1:])
        rounded[layer] = round_stochastic_reference(state[layer], words, dtype)
    return rounded
