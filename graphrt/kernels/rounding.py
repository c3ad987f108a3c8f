# SPDX-License-Identifier: Apache-2.0
"""Storing an fp32 state in fewer bits: to nearest, or stochastically.

Stochastic rounding takes the lower or the upper neighbour with a probability equal to how far the
value has got between them, so that its mean error is zero. The random words come from Philox4x32-10
(Salmon et al., SC 2011), keyed by the slot's ``rand_seed`` with counter (octet, layer, 0, 0), where
octet numbers the groups of eight consecutive state elements along N. One call's four words of 32
bits serve them: the lower half of the first, its upper half, the lower of the second, and so on.
bf16 drops 16 bits of an fp32 value, fp16 13, so 16 are enough. The draws depend on the slot's seed
and the element alone, never on the batch around it. Kernel and twin give the same bits on every
architecture.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_SMALLEST_NORMAL = tl.constexpr(2.0**-14)  # of fp16


@triton.jit
def stochastic_words(seed, octets, layer, ROWS: tl.constexpr, OCTETS: tl.constexpr):
    """Return (ROWS, 8 * OCTETS) uint32 random words of 16 bits for the elements of ``octets``."""
    zero = octets * 0
    w0, w1, w2, w3 = tl.philox(seed, octets, zero + layer, zero, zero)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # [ROWS, OCTETS, 2, 2], last two: word 2i+j
    return tl.reshape(tl.join(words & 0xFFFF, words >> 16), [ROWS, 8 * OCTETS])


@triton.jit
def round_stochastic(value, words, DTYPE: tl.constexpr):
    """Return fp32 ``value`` as DTYPE (bf16 or fp16), rounded by the random ``words``."""
    bits = value.to(tl.uint32, bitcast=True)
    if DTYPE == tl.bfloat16:
        rounded = ((bits + (words & 0xFFFF)) & 0xFFFF0000).to(tl.float32, bitcast=True)
    else:
        # Below fp16's smallest normal the spacing is that above it: there, 13 bits are dropped too.
        magnitude = tl.abs(value)
        moved = tl.where(magnitude < _SMALLEST_NORMAL, _SMALLEST_NORMAL, 0.0)
        near = (magnitude + moved).to(tl.uint32, bitcast=True)
        kept = ((near + (words & 0x1FFF)) & 0xFFFFE000).to(tl.float32, bitcast=True)
        signed = (kept - moved).to(tl.uint32, bitcast=True) | (bits & 0x80000000)
        rounded = signed.to(tl.float32, bitcast=True)
    # Adding to the bits of a NaN can carry into its sign and exponent: pass it through.
    return tl.where(value == value, rounded, value).to(DTYPE)


def philox_words(seed: Tensor, octet: Tensor, layer: Tensor, rounds: int = 10) -> list[Tensor]:
    """Return Philox4x32's four words for each (seed, octet, layer), as int64 in 0 … 2**32 - 1.

    The three int64 tensors broadcast together.
    """
    low = 0xFFFFFFFF
    key0, key1 = seed & low, (seed >> 32) & low
    zero = torch.zeros_like(octet + layer + seed)
    c0, c1, c2, c3 = zero + octet, zero + layer, zero, zero
    for _ in range(rounds):
        # int64 products wrap, but bits 0 … 63 are those of the unsigned product all the same.
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = ((b >> 32) & low) ^ c1 ^ key0, ((a >> 32) & low) ^ c3 ^ key1
        c1, c3 = b & low, a & low
        key0, key1 = (key0 + 0x9E3779B9) & low, (key1 + 0xBB67AE85) & low
    return [c0, c1, c2, c3]


def state_words(seed: Tensor, layers: Tensor, heads: int, head_dim: int, state_dim: int) -> Tensor:
    """Return the random words of whole states: (..., H, P, N) for ``seed`` and ``layers`` of (...).

    16 bits an element. Octets are numbered as a fold does: ``(h * P + p) * ceil(N / 8) + n // 8``.
    """
    octets_per_row = -(-state_dim // 8)
    octets = torch.arange(heads * head_dim * octets_per_row, device=seed.device)
    words = torch.stack(philox_words(seed[..., None], octets, layers[..., None]), dim=-1)
    halves = torch.stack([words & 0xFFFF, words >> 16], dim=-1)
    by_row = halves.reshape(*seed.shape, heads, head_dim, 8 * octets_per_row)
    return by_row[..., :state_dim]


def round_stochastic_reference(value: Tensor, words: Tensor, dtype: torch.dtype) -> Tensor:
    """Twin of `round_stochastic`: fp32 ``value`` as ``dtype``; ``words`` are int64, one a value."""
    if dtype == torch.bfloat16:
        rounded = _rounded_up_by(value, words, 0xFFFF)
    else:
        magnitude, least = value.abs(), _SMALLEST_NORMAL.value
        moved = torch.where(magnitude < least, least, 0.0)
        kept = _rounded_up_by(magnitude + moved, words, 0x1FFF)
        rounded = torch.copysign(kept - moved, value)
    return torch.where(value.isnan(), value, rounded).to(dtype)


def _rounded_up_by(value: Tensor, words: Tensor, dropped: int) -> Tensor:
    """Return fp32 ``value`` without its ``dropped`` bits, after as many of ``words`` are added."""
    bits = value.contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    kept = (bits + (words & dropped)) & (0xFFFFFFFF ^ dropped)
    return torch.where(kept >= 2**31, kept - 2**32, kept).to(torch.int32).view(torch.float32)


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
