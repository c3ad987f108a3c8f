# SPDX-License-Identifier: Apache-2.0
"""The training script: its data, its arithmetic, and that what it saves loads everywhere."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from graphrt.models.config import Mamba2Config
from graphrt.models.mamba2 import Mamba2LM
from graphrt.models.text import read_tokenizer
from tests.models.hugging_face import whole_logits
from tools import train_demo_model as tool

ARGS = argparse.Namespace(
    width=32,
    layers=2,
    state=16,
    batch=4,
    context=64,
    lr=1e-2,
    weight_decay=0.1,
    minutes=0.05,
    compile=False,
)
TEXT = b"def total(values):\n    return sum(values)\n\n\n" * 200


def untrained() -> tuple[Mamba2LM, dict[str, object]]:
    settings = tool.model_settings(ARGS)
    model = Mamba2LM(Mamba2Config.from_dict(settings))
    tool.initialise(model)
    return model, settings


def stream_of(text: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def test_corpus_is_split_by_path_and_holds_sources_alone(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"module_{i:03}.py").write_text(f"x = {i}\n")
    for name in ("site-packages/a.py", "_sysconfigdata_x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("left_out = True\n")
    (tmp_path / "nul.py").write_bytes(b"left_out = '\0'\n")
    (tmp_path / "notes.txt").write_text("left_out\n")
    corpus = tool.read_corpus(tmp_path, torch.device("cpu"))
    assert corpus.train_files + corpus.held_out_files == 200
    assert 1 <= corpus.held_out_files <= 20
    texts = [bytes(stream.tolist()) for stream in (corpus.train, corpus.held_out)]
    assert [text.count(0) for text in texts] == [corpus.train_files, corpus.held_out_files]
    assert b"left_out" not in texts[0] + texts[1]
    assert sorted((texts[0] + texts[1]).split(b"\0")[:-1]) == sorted(
        b"x = %d\n" % i for i in range(200)
    )
    again = tool.read_corpus(tmp_path, torch.device("cpu"))
    assert torch.equal(again.train, corpus.train) and torch.equal(again.held_out, corpus.held_out)


def test_bits_per_byte_of_a_model_that_knows_nothing() -> None:
    model, _ = untrained()
    with torch.no_grad():
        model.backbone.embeddings.weight.zero_()
    for length in (1, tool.EVAL_CONTEXT - 1, tool.EVAL_CONTEXT, 2 * tool.EVAL_CONTEXT + 5):
        bits = tool.bits_per_byte(model, torch.full((length,), 65, dtype=torch.uint8))
        assert bits == pytest.approx(math.log2(257), abs=1e-4)


def test_schedule_warms_up_and_ends_at_nothing() -> None:
    rates = [tool.schedule(done / 1000) for done in range(1001)]
    assert max(rates) == rates[20] == 1.0
    assert 0 < rates[0] < 0.01 and rates[-1] == pytest.approx(0, abs=1e-9)
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_training_learns_and_what_it_saves_loads_everywhere(tmp_path: Path) -> None:
    model, settings = untrained()
    stream = stream_of(TEXT)
    before = tool.bits_per_byte(model, stream)
    seen = tool.train(model, stream, ARGS, checkpoint=lambda report: None)
    tool.round_to_stored(model)
    assert tool.bits_per_byte(model, stream) < 0.7 * before
    assert seen["bytes_seen"] == seen["steps"] * 4 * 64

    tool.save(model, settings, {"finished": True} | seen, tmp_path)
    tool.save(model, settings, {"finished": True} | seen, tmp_path)  # over an earlier one
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_report.json",
    }
    assert json.loads((tmp_path / "training_report.json").read_text())["steps"] == seen["steps"]
    ids = torch.tensor([read_tokenizer(tmp_path).encode("def café(values):\n").ids])
    with torch.no_grad():
        expected = model(ids)
    ours = Mamba2LM.from_pretrained(tmp_path, device="cpu", dtype=torch.float32)
    assert ours.config.eos_token_ids == (tool.END_ID,)
    assert torch.equal(ours(ids), expected)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(whole_logits(theirs, ids), expected, atol=2e-5, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path).encode("def café(values):\n") == ids[0].tolist()
