# SPDX-License-Identifier: Apache-2.0
"""Prompt-lookup drafts, against a search that looks everywhere."""

from __future__ import annotations

import random

import pytest

from graphrt.errors import ConfigError
from graphrt.models.drafts import PromptLookup, padded


def searched(ids: list[int], count: int, max_ngram: int) -> list[int]:
    """The definition: the latest earlier occurrence of the longest ending, continued."""
    for n in range(min(max_ngram, len(ids)), 0, -1):
        for place in range(len(ids) - 1, n - 1, -1):
            if ids[place - n : place] == ids[-n:]:
                text = list(ids)
                for at in range(place, place + count):
                    text.append(text[at])
                return text[len(ids) :]
    return []


@pytest.mark.parametrize("max_ngram", [1, 2, 5])
@pytest.mark.parametrize("vocabulary", [2, 4, 30])
def test_equals_a_search(max_ngram: int, vocabulary: int) -> None:
    rng = random.Random(0)
    ids = [rng.randrange(vocabulary) for _ in range(3)]
    lookup = PromptLookup(ids, max_ngram)
    for _ in range(60):
        assert lookup.propose(4) == searched(ids, 4, max_ngram)
        new = [rng.randrange(vocabulary) for _ in range(rng.randrange(1, 4))]
        ids += new
        lookup.extend(new)


def test_longest_ending_wins_then_the_latest() -> None:
    assert PromptLookup([1, 2, 7, 9, 2, 8, 1, 2]).propose(1) == [7]
    assert PromptLookup([1, 2, 7, 1, 2, 8, 1, 2]).propose(1) == [8]


def test_a_repetition_is_continued() -> None:
    assert PromptLookup([5, 5]).propose(4) == [5, 5, 5, 5]
    assert PromptLookup([1, 2, 3, 1, 2, 3]).propose(5) == [1, 2, 3, 1, 2]


def test_nothing_to_look_up() -> None:
    assert PromptLookup().propose(3) == []
    assert PromptLookup([4]).propose(3) == []
    assert PromptLookup([1, 2, 3]).propose(3) == []
    assert PromptLookup([1, 1]).propose(0) == []


def test_padded() -> None:
    assert padded([], 2, 9) == [9, 9]
    assert padded([1], 2, 9) == [1, 9]
    assert padded([1, 2, 3], 2, 9) == [1, 2]
    assert padded([], 0, 9) == []


def test_refuses_an_empty_ngram() -> None:
    with pytest.raises(ConfigError, match="max_ngram=0"):
        PromptLookup([1], max_ngram=0)
