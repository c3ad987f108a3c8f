# SPDX-License-Identifier: Apache-2.0
"""Seeds: from one user seed to one per admission."""

from __future__ import annotations

_MASK = 2**64 - 1


def split_mix_64(state: int) -> int:
    """Return the 64-bit SplitMix64 output for ``state`` (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = (state + 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def slot_seed(user_seed: int, admission: int) -> int:
    """Return the ``rand_seed``, 0 … 2**62 - 1, that the ``admission``-th admission starts from.

    Two mixing rounds, so that neighbouring user seeds and admissions share no draws; two bits
    are left so that counting launches up never overflows an int64.
    """
    return split_mix_64(split_mix_64(user_seed) ^ admission) >> 2
