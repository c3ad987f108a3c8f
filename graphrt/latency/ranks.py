# SPDX-License-Identifier: Apache-2.0
"""Rank tests by their normal approximation, ties and continuity corrected. Plain numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def rank_sum_p(a: Floats, b: Floats) -> float:
    """Return the two-sided p of Mann and Whitney: do two independent samples differ in place?

    a, b: one number a block. 1.0 where all numbers are equal.
    """
    n, m = len(a), len(b)
    ranks, ties = ranked(np.concatenate([a, b]))
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    total = n + m
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    return _two_sided(u - n * m / 2, variance)


def signed_rank_p(differences: Floats) -> float:
    """Return the two-sided p of Wilcoxon: do paired differences lie to one side of zero?

    differences: one number a pair of blocks; zeros are left out. 1.0 where nothing is left.
    """
    kept = differences[differences != 0]
    n = len(kept)
    if not n:
        return 1.0
    ranks, ties = ranked(np.abs(kept))
    w = float(ranks[kept > 0].sum())
    variance = n * (n + 1) * (2 * n + 1) / 24 - ties / 48
    return _two_sided(w - n * (n + 1) / 4, variance)


def ranked(values: Floats) -> tuple[Floats, float]:
    """Return the ranks of ``values`` from 1, ties sharing their mean, and the sum of t³ - t."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means = last - (counts - 1) / 2
    return means[inverse], float((counts.astype(np.float64) ** 3 - counts).sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for how many there are, in the same order (Holm)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for place, index in enumerate(order):
        worst = max(worst, min(1.0, p_values[index] * (len(p_values) - place)))
        adjusted[index] = worst
    return adjusted


def _two_sided(distance: float, variance: float) -> float:
    if variance <= 0:
        return 1.0
    z = max(0.0, abs(distance) - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))
