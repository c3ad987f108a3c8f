# SPDX-License-Identifier: Apache-2.0
"""Histories of a steady state: exact where the arithmetic is known, and against a simulation."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from graphrt import ring
from graphrt.bench.histories import (
    HISTOGRAM,
    accepted_shares,
    befores,
    deal,
    flush_share,
    found,
    held_shares,
    mean,
    share_of_flushes,
)
from graphrt.errors import ConfigError


@pytest.mark.parametrize("tokens", range(1, 17))
def test_a_fixed_count_gives_the_arithmetic_of_the_byte_model(tokens: int) -> None:
    for window in range(tokens, 33):
        for count in range(1, tokens + 1):
            shares = held_shares({count: Fraction(1)}, tokens, window)
            launches = (window - tokens) // count + 1
            assert flush_share(shares, tokens, window) == Fraction(1, launches)
            assert mean(shares) == Fraction(count * (launches + 1), 2)
            assert shares == {count * i: Fraction(1, launches) for i in range(1, launches + 1)}


@pytest.mark.parametrize(("window", "share"), [(16, 0.308), (24, 0.189), (32, 0.137)])
def test_the_public_histogram_flushes_as_often_as_published(window: int, share: float) -> None:
    accepted = accepted_shares("histogram", 6)
    assert float(mean(accepted)) == pytest.approx(3.95, abs=0.005)
    shares = held_shares(accepted, 6, window)
    assert float(flush_share(shares, 6, window)) == pytest.approx(share, abs=0.0005)
    assert sum(shares.values()) == 1


def test_the_shares_are_what_a_long_run_of_the_ring_rule_gives() -> None:
    tokens, window, launches = 6, 16, 60_000
    rng, cursors, seen, flushes = random.Random(0), ring.SlotCursors(), {}, 0
    for kept in [0, *rng.choices(range(1, 7), HISTOGRAM, k=launches)]:
        cursors = ring.advance(cursors, kept, tokens, window, window + tokens, tokens + 3)
        seen[cursors.held] = seen.get(cursors.held, 0) + 1
        flushes += cursors.flushed
    shares = held_shares(accepted_shares("histogram", tokens), tokens, window)
    assert flushes / launches == pytest.approx(
        float(flush_share(shares, tokens, window)), abs=0.005
    )
    for held, share in shares.items():
        assert seen[held] / launches == pytest.approx(float(share), abs=0.01)


@pytest.mark.parametrize("history", ["histogram", "fixed:4", "fixed:1"])
@pytest.mark.parametrize(("tokens", "window"), [(6, 16), (4, 32), (16, 16)])
def test_advance_leaves_a_steady_state_steady(history: str, tokens: int, window: int) -> None:
    assert found(history, tokens, window) == held_shares(
        accepted_shares(history, tokens), tokens, window
    )


def test_all_and_none_flush() -> None:
    assert flush_share(found("all-flush", 6, 16), 6, 16) == 1
    assert flush_share(found("no-flush", 6, 16), 6, 16) == 0
    with pytest.raises(ConfigError, match="no launch does that"):
        befores("no-flush", 6, 6)


@pytest.mark.parametrize("count", [1, 2, 16, 823, 4096])
def test_dealt_slots_flush_as_often_as_they_must(count: int) -> None:
    joint = befores("histogram", 6, 16)
    dealt = deal(joint, 6, 16, count)
    assert len(dealt) == count
    assert dealt == deal(joint, 6, 16, count)
    exact = float(flush_share(found("histogram", 6, 16), 6, 16))
    assert abs(share_of_flushes(dealt, 6, 16) - exact) <= 1 / count


@pytest.mark.parametrize("history", ["fixed:0", "fixed:7", "fixed", "none", "fixed:-1", ""])
def test_a_wrong_history_is_refused(history: str) -> None:
    with pytest.raises(ConfigError, match="history="):
        accepted_shares(history, 6)


def test_counts_above_the_launch_are_the_launch() -> None:
    shares = accepted_shares("histogram", 1)
    assert shares == {1: Fraction(1)}
