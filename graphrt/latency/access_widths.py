# SPDX-License-Identifier: Apache-2.0
"""Whether a kernel's loads or stores became narrower, from the counts of its static facts."""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

from graphrt.kernels.static_facts import Facts

_KINDS = {"LDG": "loads", "STG": "stores"}
_BYTES = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_LEAST = 0.05  # of the mean width

Widths: TypeAlias = "Counter[int]"
"""How many accesses there are of each width in bytes."""


def narrower(was: Facts, now: Facts) -> list[str]:
    """Return a sentence for loads and one for stores, where their mean width fell."""
    found = []
    for opcode, kind in _KINDS.items():
        old, new = _widths(was, opcode), _widths(now, opcode)
        if old and new and _mean(new) < _mean(old) * (1 - _LEAST):
            found.append(f"{kind} are narrower: were {_told(old)}, are {_told(new)}")
    return found


def _widths(facts: Facts, kind: str) -> Widths:
    found: Widths = Counter()
    for counts in facts.values():
        for opcode, count in counts.items():
            name, *suffixes = opcode.split(".")
            if name == kind:
                found[next((_BYTES[one] for one in suffixes if one in _BYTES), 4)] += count
    return found


def _mean(widths: Widths) -> float:
    return sum(size * count for size, count in widths.items()) / widths.total()


def _told(widths: Widths) -> str:
    return ", ".join(f"{count} of {size} bytes" for size, count in sorted(widths.items())[::-1])
