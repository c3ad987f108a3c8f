# SPDX-License-Identifier: Apache-2.0
"""Prompt-lookup drafts: what followed the last time the text ended like this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphrt.errors import ConfigError, sentence


class PromptLookup:
    """Drafts for one request, looked up in its own prompt and output (n-grams). Pure Python.

    The longest n-gram, of at most ``max_ngram`` tokens, that the text ends with and that occurred
    before is found in constant time; its latest occurrence is taken. Method: Saxena, "Prompt Lookup
    Decoding", 2023.
    """

    def __init__(self, token_ids: Iterable[int] = (), max_ngram: int = 8) -> None:
        """Start from ``token_ids``, usually the prompt. Raises ConfigError for max_ngram < 1."""
        if max_ngram < 1:
            raise ConfigError(
                sentence("max_ngram", max_ngram, "must be ≥ 1", "match at least the last token")
            )
        self._max_ngram = max_ngram
        self._ids: list[int] = []
        # The place after the latest occurrence of every n-gram that something followed.
        self._followed: dict[tuple[int, ...], int] = {}
        self.extend(token_ids)

    def extend(self, token_ids: Iterable[int]) -> None:
        """Append tokens to the text."""
        for token in token_ids:
            place = len(self._ids)
            for n in range(1, min(self._max_ngram, place) + 1):
                self._followed[tuple(self._ids[place - n :])] = place
            self._ids.append(token)

    def propose(self, count: int) -> list[int]:
        """Return ``count`` drafts for the tokens to come, or none where nothing like it occurred.

        An occurrence that reaches the end of the text goes on into the drafts themselves, so that a
        repetition is continued.
        """
        for n in range(min(self._max_ngram, len(self._ids)), 0, -1):
            place = self._followed.get(tuple(self._ids[-n:]))
            if place is not None:
                return self._continued(place, count)
        return []

    def _continued(self, place: int, count: int) -> list[int]:
        drafts: list[int] = []
        size = len(self._ids)
        for at in range(place, place + count):
            drafts.append(self._ids[at] if at < size else drafts[at - size])
        return drafts


def padded(drafts: Sequence[int], count: int, filler: int) -> list[int]:
    """Return exactly ``count`` drafts: a wrong one costs nothing, since each is verified."""
    return [*drafts[:count], *[filler] * (count - len(drafts))]
