# SPDX-License-Identifier: Apache-2.0
"""Text from token ids as they come, never cutting a character in two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from graphrt.errors import CheckpointError, sentence

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what an unfinished UTF-8 sequence decodes to


class TextStream:
    """Turns one request's tokens into pieces of text.

    The pieces, `finish`'s included, joined, are exactly what all the tokens decode to after the
    context. Special tokens are left out.
    """

    def __init__(self, tokenizer: Tokenizer, context_ids: Sequence[int] = ()) -> None:
        """Start after ``context_ids``, the prompt: a text's first token may decode otherwise."""
        self._tokenizer = tokenizer
        self._ids = list(context_ids[-8:])
        self._start = 0  # decoding starts here, at a place where whole text ended
        self._whole = len(self._ids)  # whole text ended here too, later
        self._given = len(self._decode())  # characters since _start that were given out

    def push(self, token_ids: Iterable[int]) -> str:
        """Append tokens; return the text that can no longer change, perhaps none."""
        self._ids.extend(token_ids)
        text = self._decode()
        certain = text.rstrip(_REPLACEMENT)
        piece = certain[self._given :]
        self._given += len(piece)
        if len(certain) == len(text):  # nothing is held back: forget what lies further behind
            self._start, self._whole = self._whole, len(self._ids)
            self._given = len(self._decode())
        return piece

    def finish(self) -> str:
        """Return what was held back: an unfinished character reads as U+FFFD."""
        piece = self._decode()[self._given :]
        self._given += len(piece)
        return piece

    def _decode(self) -> str:
        text: str = self._tokenizer.decode(self._ids[self._start :], skip_special_tokens=True)
        return text


def read_tokenizer(directory: str | Path) -> Tokenizer:
    """Return the tokenizer of ``directory``/tokenizer.json; raise CheckpointError without one."""
    path = Path(directory) / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more specific
        raise CheckpointError(
            sentence("tokenizer", path, f"cannot be read ({error})", "save the model with one")
        ) from error
