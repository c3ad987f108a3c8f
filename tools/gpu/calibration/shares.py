# SPDX-License-Identifier: Apache-2.0
"""What a count says of the share behind it: one-sided bounds by Clopper and Pearson."""

from __future__ import annotations

import math

CONFIDENCE = 0.95


def at_most(hits: int, of: int, confidence: float = CONFIDENCE) -> float:
    """Return the largest share that ``hits`` or fewer of ``of`` do not refute."""
    if hits >= of:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _up_to(hits, of, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def at_least(hits: int, of: int, confidence: float = CONFIDENCE) -> float:
    """Return the smallest share that ``hits`` or more of ``of`` do not refute."""
    return 1 - at_most(of - hits, of, confidence)


def _up_to(hits: int, of: int, share: float) -> float:
    """Return how likely ``hits`` or fewer of ``of`` are where each has the chance ``share``."""
    return math.fsum(
        math.comb(of, count) * share**count * (1 - share) ** (of - count)
        for count in range(hits + 1)
    )
