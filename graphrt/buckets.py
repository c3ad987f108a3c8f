# SPDX-License-Identifier: Apache-2.0
"""Buckets: the batch sizes for which graphs are captured.

A batch is padded up to the next bucket, so the largest bucket is also the largest batch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from graphrt.errors import ConfigError, SlotError, sentence


def check_buckets(buckets: Sequence[int], slots: int) -> None:
    """Raise ConfigError unless ``buckets`` rises strictly, from 1 or more to ``slots`` or less."""
    if not buckets:
        raise ConfigError(
            sentence("buckets", "()", "must name at least one batch size", "pass e.g. (1, 2, 4)")
        )
    if buckets[0] < 1:
        raise ConfigError(
            sentence("buckets", tuple(buckets), "every bucket must be ≥ 1", "drop the others")
        )
    if any(b >= c for b, c in pairwise(buckets)):
        raise ConfigError(
            sentence(
                "buckets", tuple(buckets), "must be strictly rising", "sort them and drop repeats"
            )
        )
    if buckets[-1] > slots:
        raise ConfigError(
            sentence(
                "buckets",
                tuple(buckets),
                f"the largest bucket must be ≤ slots ({slots}), a row needs a slot",
                "lower the largest bucket or raise slots",
            )
        )


def choose_bucket(rows: int, buckets: Sequence[int]) -> int:
    """Return the smallest bucket that holds ``rows`` rows.

    ``buckets`` is strictly rising. Raises SlotError for fewer than one row or more than the
    largest bucket holds.
    """
    if not 1 <= rows <= buckets[-1]:
        raise SlotError(
            sentence(
                "rows",
                rows,
                f"a launch takes 1 … {buckets[-1]} rows (the largest bucket)",
                "split the batch or configure a larger bucket",
            )
        )
    return buckets[bisect_left(buckets, rows)]
