# SPDX-License-Identifier: Apache-2.0
"""Ring positions against a model that keeps the tokens themselves, over every small combination."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest

from graphrt.config import MAX_TOKENS, MAX_WINDOW
from graphrt.ring import SlotCursors, advance, clamp_accepted, must_flush, ring_row


@dataclass
class Slot:
    """One slot as lists of token numbers, beside the cursors under test.

    ``ring`` and ``conv_ring`` hold the token each row was last written with. Every launch checks
    that the cursors find exactly the kept tokens, in order, and that nothing kept is overwritten.
    """

    window: int
    max_tokens: int
    width: int
    cursors: SlotCursors = field(default_factory=SlotCursors)
    folded: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)  # since the checkpoint
    history: list[int] = field(default_factory=list)  # of the convolution, from the beginning
    proposed: list[int] = field(default_factory=list)
    next_token: int = 0
    flushes: int = 0

    def __post_init__(self) -> None:
        self.ring: list[int | None] = [None] * (self.window + self.max_tokens)
        conv_rows = self.width - 1 + self.max_tokens
        self.conv_ring: list[int | None] = [None] * conv_rows
        for i in range(self.width - 1):  # admission writes the tokens before the first
            self.conv_ring[i - (self.width - 1)] = i - (self.width - 1)
        self.history = list(range(-(self.width - 1), 0))

    def launch(self, accepted: int, tokens: int) -> None:
        """Commit ``accepted`` of the tokens proposed last, propose ``tokens`` more."""
        was_flushed = self.cursors.flushed
        self.cursors = advance(
            self.cursors, accepted, tokens, self.window, len(self.ring), len(self.conv_ring)
        )
        count = max(0, min(accepted, len(self.proposed)))
        if was_flushed:
            self.folded += self.kept
            self.kept = []
        self.kept += self.proposed[:count]
        self.history += self.proposed[:count]

        at = self.cursors
        assert at.held == len(self.kept) <= self.window
        rows = [ring_row(at.ring_start, i, len(self.ring)) for i in range(at.held)]
        assert [self.ring[row] for row in rows] == self.kept
        conv = [ring_row(at.conv_pos, i, len(self.conv_ring)) for i in range(1 - self.width, 0)]
        assert [self.conv_ring[row] for row in conv] == self.history[1 - self.width :]
        assert at.flushed == (len(self.kept) + tokens > self.window)
        assert at.last_tokens == tokens

        self.flushes += at.flushed
        self.proposed = list(range(self.next_token, self.next_token + tokens))
        self.next_token += tokens
        for i, token in enumerate(self.proposed):
            row = ring_row(at.ring_start, at.held + i, len(self.ring))
            assert row not in rows, "a row that the launch reads is written by it"
            self.ring[row] = token
            row = ring_row(at.conv_pos, i, len(self.conv_ring))
            assert row not in conv, "an input that the launch reads is written by it"
            self.conv_ring[row] = token


def small_shapes() -> list[tuple[int, int, int]]:
    """Return every (window, T, conv width) up to window 6 and T 4."""
    return [(w, t, k) for w in range(1, 7) for t in range(1, min(w, 4) + 1) for k in (2, 3, 4)]


@pytest.mark.parametrize(("window", "max_tokens", "width"), small_shapes())
def test_every_short_sequence_finds_its_tokens(window: int, max_tokens: int, width: int) -> None:
    launches = 4 if max_tokens <= 2 else 3
    lengths = range(1, max_tokens + 1)
    for tokens in itertools.product(lengths, repeat=launches):
        accepts = [range(t + 1) for t in (0, *tokens[:-1])]
        for accepted in itertools.product(*accepts):
            slot = Slot(window, max_tokens, width)
            for count, length in zip(accepted, tokens, strict=True):
                slot.launch(count, length)


@pytest.mark.parametrize("window", [1, 5, 16, 24, 31, 32])
@pytest.mark.parametrize("max_tokens", [1, 2, 6, 16])
def test_long_sequences_find_their_tokens(window: int, max_tokens: int) -> None:
    if max_tokens > window:
        pytest.skip("window is at least T")
    rng = random.Random(window * 100 + max_tokens)
    slot = Slot(window, max_tokens, width=4)
    wraps = 0
    for _ in range(1000):
        start = slot.cursors.ring_start
        slot.launch(rng.randint(-2, max_tokens + 2), rng.randint(1, max_tokens))
        wraps += slot.cursors.ring_start < start
    assert slot.flushes > 10 and wraps > 3
    assert slot.folded + slot.kept == slot.history[3:]


def test_every_state_leads_to_a_legal_one() -> None:
    """For all held, T and counts: held stays within the window, positions in their rings."""
    for window, max_tokens in [(1, 1), (3, 3), (5, 3), (8, 8), (32, 16)]:
        rows, conv_rows = window + max_tokens, 3 + max_tokens
        for held, last, tokens in itertools.product(
            range(window + 1), range(1, max_tokens + 1), range(1, max_tokens + 1)
        ):
            before = SlotCursors(
                held, rows - 1, conv_rows - 1, must_flush(held, last, window), last
            )
            for accepted in range(-1, last + 2):
                after = advance(before, accepted, tokens, window, rows, conv_rows)
                kept = clamp_accepted(accepted, last)
                assert after.held == (kept if before.flushed else held + kept)
                assert 0 <= after.held <= window
                assert after.held + tokens <= rows
                assert 0 <= after.ring_start < rows
                assert 0 <= after.conv_pos < conv_rows
                assert after.last_tokens == tokens


def test_a_launch_flushes_exactly_when_the_next_might_not_fit() -> None:
    for window in range(1, MAX_WINDOW + 1):
        for tokens in range(1, min(window, MAX_TOKENS) + 1):
            flushing = [held for held in range(window + 1) if must_flush(held, tokens, window)]
            assert flushing == list(range(window - tokens + 1, window + 1))


def test_a_window_of_t_flushes_whenever_anything_is_held() -> None:
    """With W = T the state is stored every step, one step late."""
    assert not must_flush(0, 4, 4)
    assert all(must_flush(held, 4, 4) for held in range(1, 5))


def test_counts_are_clamped_to_the_last_launch() -> None:
    assert [clamp_accepted(n, 3) for n in (-(2**31), -1, 0, 1, 3, 4, 2**31 - 1)] == [
        *(0, 0, 0, 1, 3, 3, 3)
    ]
    assert clamp_accepted(1, 0) == 0


def test_a_slot_just_admitted_commits_nothing() -> None:
    after = advance(SlotCursors(), accepted=5, tokens=3, window=8, ring_rows=11, conv_ring_rows=6)
    assert after == SlotCursors(held=0, ring_start=0, conv_pos=0, flushed=False, last_tokens=3)
