# SPDX-License-Identifier: Apache-2.0
"""How full the rings of slots in steady state are: pure arithmetic, exact.

From launch to launch, ``held`` is a Markov chain: a launch that flushes leaves the accepted tokens,
another adds them. Counts are at least 1, so ``held`` rises until it flushes, and the shares follow
from expected visits in one rise. A benchmark whose cursors do not come from this times launches
that are cheaper, or dearer, than a serving launch.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from graphrt import ring
from graphrt.errors import ConfigError, sentence

HISTOGRAM = (539622, 329144, 336224, 495832, 444398, 1007008)
"""How often 1 … 6 tokens of a launch were accepted, in public use; mean 3.95."""

Shares: TypeAlias = dict[int, Fraction]


@dataclass(frozen=True, slots=True, order=True)
class Before:
    """A slot before its advance: the history it held at the last launch, and what it accepts."""

    held: int
    accepted: int

    def after(self, tokens: int, window: int) -> int:
        """Return the history that the coming launch finds."""
        flushed = ring.must_flush(self.held, tokens, window)
        return self.accepted if flushed else self.held + self.accepted


def accepted_shares(history: str, tokens: int) -> Shares:
    """Return how often each count is accepted, counts above ``tokens`` as ``tokens``.

    history: ``histogram``, ``all-flush``, ``no-flush`` (all three by HISTOGRAM), or ``fixed:A`` for
    A tokens every launch. Raises ConfigError for anything else.
    """
    if history in ("histogram", "all-flush", "no-flush"):
        total = sum(HISTOGRAM)
        shares: Shares = {}
        for count, weight in enumerate(HISTOGRAM, start=1):
            kept = min(count, tokens)
            shares[kept] = shares.get(kept, Fraction(0)) + Fraction(weight, total)
        return shares
    fixed = re.fullmatch(r"fixed:(\d{1,2})", history)
    if fixed is None or not 1 <= int(fixed[1]) <= tokens:
        raise ConfigError(
            sentence(
                "history",
                history,
                f"must be histogram, all-flush, no-flush or fixed:A with A 1 … tokens ({tokens})",
                "choose one of them",
            )
        )
    return {int(fixed[1]): Fraction(1)}


def held_shares(accepted: Mapping[int, Fraction], tokens: int, window: int) -> Shares:
    """Return how often a launch finds each ``held``, in steady state."""
    visits: Shares = {}
    for held in range(1, window + 1):
        expected = accepted.get(held, Fraction(0))
        for count, share in accepted.items():
            before = held - count
            if before in visits and not ring.must_flush(before, tokens, window):
                expected += visits[before] * share
        if expected:
            visits[held] = expected
    launches = sum(visits.values())  # from one flush to the next
    return {held: visit / launches for held, visit in visits.items()}


def flush_share(held: Mapping[int, Fraction], tokens: int, window: int) -> Fraction:
    """Return the share of launches that flush."""
    return sum(
        (share for h, share in held.items() if ring.must_flush(h, tokens, window)), Fraction(0)
    )


def mean(shares: Mapping[int, Fraction]) -> Fraction:
    """Return the mean of what is shared out."""
    return sum((value * share for value, share in shares.items()), Fraction(0))


def befores(history: str, tokens: int, window: int) -> dict[Before, Fraction]:
    """Return the slots of a steady state before their advance; what they become has `held_shares`.

    ``all-flush`` and ``no-flush`` keep those whose coming launch flushes, or does not; ConfigError
    where there is none.
    """
    accepted = accepted_shares(history, tokens)
    joint = {
        Before(held, count): share * part
        for held, share in held_shares(accepted, tokens, window).items()
        for count, part in accepted.items()
    }
    if history in ("all-flush", "no-flush"):
        wanted = history == "all-flush"
        joint = {
            before: share
            for before, share in joint.items()
            if ring.must_flush(before.after(tokens, window), tokens, window) == wanted
        }
        total = sum(joint.values())
        if not total:
            raise ConfigError(
                sentence(
                    "history",
                    history,
                    f"no launch does that at T {tokens} and W {window}",
                    "widen the window or choose another history",
                )
            )
        joint = {before: share / total for before, share in joint.items()}
    return joint


def found(history: str, tokens: int, window: int) -> Shares:
    """Return how often the launches of ``history`` find each ``held``."""
    shares: Shares = {}
    for before, share in befores(history, tokens, window).items():
        held = before.after(tokens, window)
        shares[held] = shares.get(held, Fraction(0)) + share
    return shares


def deal(joint: Mapping[Before, Fraction], tokens: int, window: int, count: int) -> list[Before]:
    """Return ``count`` slots whose shares are as near to ``joint`` as whole numbers allow.

    The middles of ``count`` equal parts of the distribution, flushing launches last, shuffled by a
    fixed seed: the share of flushes is off by at most one slot, not by chance.
    """
    order = sorted(joint, key=lambda before: (before.after(tokens, window), before))
    dealt: list[Before] = []
    until, passed = Fraction(0), 0
    for before in order:
        until += joint[before]
        while passed < count and Fraction(2 * passed + 1, 2 * count) < until:
            dealt.append(before)
            passed += 1
    random.Random(0).shuffle(dealt)
    return dealt


def share_of_flushes(dealt: Sequence[Before], tokens: int, window: int) -> float:
    """Return the share of ``dealt`` whose coming launch flushes."""
    flushes = sum(ring.must_flush(before.after(tokens, window), tokens, window) for before in dealt)
    return flushes / len(dealt)
