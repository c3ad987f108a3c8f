# SPDX-License-Identifier: Apache-2.0
"""Text as it comes: whole characters, and joined exactly the decoded tokens."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models

from graphrt.errors import CheckpointError
from graphrt.models.text import TextStream, read_tokenizer
from tools.train_demo_model import END_ID, byte_tokenizer

TEXTS = [
    "plain",
    "naïve café, 日本語, 🎉👩‍👩‍👧 and \ufffd itself\ufffd",
    "\x00\t\n\r  two  spaces ",
    "",
    "".join(map(chr, [*range(0x20, 0x2000, 7), *range(0x1F300, 0x1F400, 5)])),
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("seed", range(3))
def test_pieces_join_to_the_text(text: str, seed: int) -> None:
    rng = random.Random(seed)
    ids = list(text.encode())
    stream = TextStream(byte_tokenizer(), list("prompt é".encode()))
    pieces = []
    while ids:
        count = rng.randrange(1, 7)
        pieces.append(stream.push(ids[:count]))
        ids = ids[count:]
    assert "".join(pieces) + stream.finish() == text
    assert stream.finish() == ""


def test_a_character_comes_when_its_last_byte_does() -> None:
    stream = TextStream(byte_tokenizer())
    given = [stream.push([byte]) for byte in "a€b".encode()]
    assert given == ["a", "", "", "€", "b"]


def test_broken_bytes_read_as_replacements() -> None:
    ids = [0x61, 0xE2, 0x82, 0x62, 0xFF, 0xFE, 0xE2]
    stream = TextStream(byte_tokenizer())
    pieces = [stream.push([byte]) for byte in ids]
    assert "".join(pieces) + stream.finish() == bytes(ids).decode(errors="replace")


def test_special_tokens_are_left_out() -> None:
    stream = TextStream(byte_tokenizer())
    assert stream.push([*b"ab", END_ID, *b"c"]) + stream.finish() == "abc"


def test_a_decoder_that_strips_the_first_space() -> None:
    vocabulary = {"▁a": 0, "▁b": 1, "c": 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="c"))
    tokenizer.decoder = decoders.Metaspace()
    assert tokenizer.decode([1]) == "b"
    ids = [1, 2, 0, 1, 1, 2, 0, 0, 0, 1, 2, 2, 1]
    stream = TextStream(tokenizer, [0])
    assert (
        "".join(stream.push([token]) for token in ids) + stream.finish()
        == (tokenizer.decode([0, *ids])[len("a") :])
    )


def test_every_byte_round_trips() -> None:
    tokenizer = byte_tokenizer()
    text = "".join(TEXTS)
    ids = tokenizer.encode(text).ids
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode("a<|endoftext|>").ids == [0x61, END_ID]
    assert tokenizer.get_vocab_size() == 257


@pytest.mark.parametrize("content", ["{}", None])
def test_refuses_a_directory_without_tokenizer(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        read_tokenizer(tmp_path)
