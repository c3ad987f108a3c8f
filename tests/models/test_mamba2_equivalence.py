# SPDX-License-Identifier: Apache-2.0
"""Logits of prefill and of every decode step are those of transformers' Mamba2ForCausalLM."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from graphrt import DecodeRuntime
from graphrt.errors import ConfigError
from graphrt.models import mamba2
from graphrt.models.generate import runtime_config
from graphrt.models.greedy import GreedyStep
from graphrt.models.mamba2 import Mamba2LM
from tests.models.hugging_face import greedy_ids, make_model, save_model, whole_logits

TOLERANCE = 2e-5  # of logits a few units large, in fp32

MODELS: dict[str, dict[str, Any]] = {
    "base": {},
    "groups_4": {"n_groups": 4},
    "groups_2_of_8_heads": {"n_groups": 2, "num_heads": 8, "hidden_size": 64},
    "tied": {"tie_word_embeddings": True},
    "biases": {"use_bias": True},
    "no_conv_bias": {"use_conv_bias": False},
    "dt_limits": {"time_step_limit": (0.01, 0.05)},
    "conv_width_2": {"conv_kernel": 2},
    "expand_4": {"expand": 4, "head_dim": 32},
    "everything": {
        "n_groups": 4,
        "tie_word_embeddings": True,
        "use_bias": True,
        "use_conv_bias": False,
        "time_step_limit": (0.001, 0.2),
        "residual_in_fp32": False,
    },
}


def pair(directory: Path, **fields: Any) -> tuple[Any, Mamba2LM]:
    theirs = make_model(**fields)
    ours = Mamba2LM.from_pretrained(save_model(theirs, directory), device="cpu")
    return theirs, ours


def check_logits(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("fields", MODELS.values(), ids=MODELS)
def test_prefill_logits(tmp_path: Path, fields: dict[str, Any]) -> None:
    theirs, ours = pair(tmp_path, **fields)
    assert ours.dtype == torch.float32
    for length in (1, 2, 3, 5, 64, 65, 130):
        ids = torch.randint(theirs.config.vocab_size, (2, length))
        expected = whole_logits(theirs, ids)
        check_logits(ours(ids), expected)
        check_logits(ours.prefill(ids[1])[0], expected[1, -1])


@pytest.mark.parametrize("fields", MODELS.values(), ids=MODELS)
def test_decode_logits_at_every_step(tmp_path: Path, fields: dict[str, Any]) -> None:
    theirs, ours = pair(tmp_path, **fields)
    rng = random.Random(0)
    tokens, new = 4, 40
    texts = [
        prompt + greedy_ids(theirs, prompt, new)
        for prompt in ([7], [5, 9], [rng.randrange(61) for _ in range(33)])
    ]
    lengths = [len(text) - new for text in texts]
    expected = [whole_logits(theirs, torch.tensor([text]))[0] for text in texts]
    config = runtime_config(ours, slots=3, tokens=tokens, window=6)
    kept_counts = set()
    with DecodeRuntime(config) as runtime:
        runtime.capture(GreedyStep(ours))
        known = {}  # tokens that the model has chosen, per slot; the last was not run yet
        rows = {}
        for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
            logits, prefilled = ours.prefill(text[:length])
            check_logits(logits, expected[row][length - 1])
            slot = runtime.admit(prefilled)
            known[slot], rows[slot] = length + 1, row
        while known:
            slots = rng.sample(sorted(known), len(known))
            right = {slot: rng.randrange(tokens) for slot in slots}  # drafts, then a wrong one
            inputs = []
            for slot in slots:
                text, at = texts[rows[slot]], known[slot]
                line = [*text[at - 1 : at + right[slot]], *[0] * tokens][:tokens]
                if right[slot] + 1 < tokens and at + right[slot] < len(text):
                    line[right[slot] + 1] = (text[at + right[slot]] + 1) % 61
                inputs.append(line)
            out = runtime.launch(slots, input_ids=inputs)
            for line, slot in enumerate(slots):
                text, at = texts[rows[slot]], known[slot]
                count = min(int(out.counts[line]), len(text) - at)
                assert count == min(right[slot] + 1, len(text) - at)
                assert out.next_ids[line, :count].tolist() == text[at : at + count]
                check_logits(
                    out.logits[line, :count], expected[rows[slot]][at - 1 : at - 1 + count]
                )
                kept_counts.add(count)
                known[slot] = at + count
                if known[slot] == len(text):
                    runtime.release(slot)
                    del known[slot]
    assert kept_counts == set(range(1, tokens + 1))


def test_a_long_prompt_in_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = pair(tmp_path)
    ids = torch.randint(61, (150,))
    whole_state = ours.prefill(ids)[1]
    monkeypatch.setattr(mamba2, "_SEGMENT_TOKENS", 40)
    logits, prefilled = ours.prefill(ids.tolist())
    check_logits(logits, whole_logits(theirs, ids[None])[0, -1])
    torch.testing.assert_close(prefilled.state, whole_state.state)
    assert prefilled.state.shape == (3, 4, 16, 16)
    assert prefilled.conv_tail.shape == (3, 3, 4 * 16 + 2 * 16)


def test_a_prompt_needs_a_token(tmp_path: Path) -> None:
    _, ours = pair(tmp_path)
    with pytest.raises(ConfigError, match="prompt"):
        ours.prefill([])


def test_dtype_is_chosen_and_decays_stay_fp32(tmp_path: Path) -> None:
    save_model(make_model(), tmp_path)
    model = Mamba2LM.from_pretrained(tmp_path, device="cpu", dtype=torch.bfloat16)
    fp32 = {
        name.rpartition(".")[2] for name, p in model.named_parameters() if p.dtype != model.dtype
    }
    assert model.dtype == torch.bfloat16 and fp32 == {"A_log", "dt_bias", "D"}
    assert model(torch.tensor([[1, 2, 3]])).dtype == torch.float32
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_bf16_logits_are_near(tmp_path: Path) -> None:
    theirs = make_model()
    save_model(theirs, tmp_path)
    model = Mamba2LM.from_pretrained(tmp_path, device="cpu", dtype=torch.bfloat16)
    ids = torch.randint(61, (1, 50))
    expected = whole_logits(theirs, ids)
    assert (model(ids) - expected).norm() <= 2e-2 * expected.norm()


@pytest.mark.parametrize("name", [name for name, _ in make_model(use_bias=True).named_parameters()])
def test_another_value_of_any_parameter_is_refused(tmp_path: Path, name: str) -> None:
    theirs, ours = pair(tmp_path, use_bias=True)
    theirs.get_parameter(name).mul_(1.01)
    ids = torch.randint(61, (1, 20))
    with pytest.raises(AssertionError):
        check_logits(ours(ids), whole_logits(theirs, ids))
