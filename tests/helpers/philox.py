# SPDX-License-Identifier: Apache-2.0
"""Philox4x32-10 in plain integers (Salmon et al., SC 2011), held to its published vectors."""

from __future__ import annotations

from torch import Tensor

MASK = 0xFFFFFFFF

# Random123's known answers, philox4x32 with ten rounds: (counter, key, words).
KNOWN_ANSWERS = [
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def philox4x32(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Return the four words of ten rounds."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 1 << 32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def words_of(seed: int, octet: int, layer: int) -> tuple[int, ...]:
    """Return the words graphrt documents for eight consecutive elements of a slot's state."""
    return philox4x32((octet, layer, 0, 0), (seed & MASK, seed >> 32 & MASK))


def check_state_words(got: Tensor, seed: int, layer: int) -> None:
    """Require (H, P, N) words to be Philox's by halves, eight elements along N to an octet."""
    heads, head_dim, state_dim = got.shape
    octets_a_row = -(-state_dim // 8)
    for h in range(heads):
        for p in range(head_dim):
            for q in range(octets_a_row):
                words = words_of(seed, (h * head_dim + p) * octets_a_row + q, layer)
                halves = [half for word in words for half in (word & 0xFFFF, word >> 16)]
                row = got[h, p, 8 * q : 8 * q + 8].tolist()
                assert row == halves[: len(row)], (h, p, q)
