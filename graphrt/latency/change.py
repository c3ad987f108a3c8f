# SPDX-License-Identifier: Apache-2.0
"""By how much a series moved: an interval of the ratio of two quantiles, and a rank test.

Samples are (builds, blocks, samples a block). Samples of a block follow each other closely and are
not independent, so blocks are what is resampled and ranked. Every build allocated and captured
anew, and some are luckier than others, so the interval spans two: the bootstrap over blocks, and
Student's over builds. All of it works on logarithms: swapping the sides negates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphrt.latency.ranks import rank_sum_p, signed_rank_p

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
_RESAMPLES = 1000

# 97.5 % quantiles of Student's distribution, by degrees of freedom; between two, the smaller count.
_STUDENT = {
    **dict(enumerate((12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306), start=1)),
    **{9: 2.262, 10: 2.228, 12: 2.179, 15: 2.131, 20: 2.086, 30: 2.042, 60: 2.000, 120: 1.980},
}


@dataclass(frozen=True, slots=True)
class Change:
    """How one quantile of a series moved from the old side to the new one.

    log_ratio, low, high: logarithm of new / old and its 95 % interval. p: of the rank test. old_us,
    new_us: the quantile itself. blocks: of the side that has fewer. block_samples: in each.
    build_half_width: what the luck of a build adds, 0 where a side has a single build.
    """

    quantile: float
    log_ratio: float
    low: float
    high: float
    p: float
    old_us: float
    new_us: float
    blocks: int
    block_samples: int
    build_half_width: float
    paired: bool

    @property
    def ratio(self) -> float:
        """New over old."""
        return math.exp(self.log_ratio)

    @property
    def half_width(self) -> float:
        """The farther end of the interval from the ratio, in logarithms: about a share."""
        return max(self.high - self.log_ratio, self.log_ratio - self.low)


def measure_change(
    old: Floats, new: Floats, *, paired: bool, quantile: float = 0.5, seed: int = 0
) -> Change | None:
    """Return how ``quantile`` moved, or None where it is not positive on both sides.

    old, new: (builds, blocks, samples), all finite. paired: block i of both was taken in turns;
    then the shapes must be equal. The same samples give the same answer, and swapped ones its
    mirror image.
    """
    if paired and old.shape[:2] != new.shape[:2]:
        raise ValueError(f"shapes={old.shape}, {new.shape}: pairs need equally many blocks")
    sides = [float(np.quantile(side, quantile)) for side in (old, new)]
    if min(sides) <= 0:
        return None
    swap = new.tobytes() < old.tobytes()
    first, second = (new, old) if swap else (old, new)
    log_ratio = math.log(sides[1]) - math.log(sides[0])
    low, high = _bootstrap(first, second, quantile, paired, seed)
    if swap:
        low, high = -high, -low
    middle, half = _over_builds(old, new, quantile, paired)
    blocks = [np.quantile(side, quantile, axis=2).ravel() for side in (old, new)]
    p = signed_rank_p(blocks[1] - blocks[0]) if paired else rank_sum_p(blocks[0], blocks[1])
    return Change(
        quantile=quantile,
        log_ratio=log_ratio,
        low=min(low, middle - half),
        high=max(high, middle + half),
        p=p,
        old_us=sides[0],
        new_us=sides[1],
        blocks=min(len(side) for side in blocks),
        block_samples=min(old.shape[2], new.shape[2]),
        build_half_width=half,
        paired=paired,
    )


def _bootstrap(
    old: Floats, new: Floats, quantile: float, paired: bool, seed: int
) -> tuple[float, float]:
    """Return the interval of the log ratio over blocks drawn anew within each build."""
    random = np.random.default_rng(seed)
    drawn_old = _draw(random, old)
    drawn_new = drawn_old if paired else _draw(random, new)
    logs = _log_quantiles(new, drawn_new, quantile) - _log_quantiles(old, drawn_old, quantile)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(logs, [tail, 1 - tail])
    return float(low), float(high)


def _draw(random: np.random.Generator, side: Floats) -> NDArray[np.int64]:
    builds, blocks, _ = side.shape
    return random.integers(blocks, size=(_RESAMPLES, builds, blocks))


def _log_quantiles(side: Floats, drawn: NDArray[np.int64], quantile: float) -> Floats:
    builds = np.arange(side.shape[0])[None, :, None]
    resampled = side[builds, drawn]  # [resamples, builds, blocks, samples]
    found = np.quantile(resampled.reshape(len(drawn), -1), quantile, axis=1)
    logs: Floats = np.log(np.maximum(found, np.finfo(np.float64).tiny))
    return logs


def _over_builds(old: Floats, new: Floats, quantile: float, paired: bool) -> tuple[float, float]:
    """Return the mean log ratio over builds and Student's half width: paired, or by Welch.

    The mean, and not the ratio of all samples: where builds fall into two kinds, the latter jumps
    from one kind to the other.
    """
    floor = np.finfo(np.float64).tiny
    logs = [
        np.log(np.maximum(np.quantile(side.reshape(len(side), -1), quantile, axis=1), floor))
        for side in (old, new)
    ]
    middle = float(logs[1].mean() - logs[0].mean())
    if min(len(side) for side in logs) < 2:
        return middle, 0.0
    if paired:
        apart = logs[1] - logs[0]
        return middle, student(len(apart) - 1) * float(apart.std(ddof=1)) / math.sqrt(len(apart))
    parts = [float(side.var(ddof=1)) / len(side) for side in logs]
    total = sum(parts)
    if total == 0:
        return middle, 0.0
    freedom = total**2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, logs, strict=True)
    )
    return middle, student(freedom) * math.sqrt(total)


def student(freedom: float) -> float:
    """Return the 97.5 % quantile for ``freedom`` degrees, rounded down to one that is listed."""
    return _STUDENT[max((known for known in _STUDENT if known <= freedom), default=1)]
