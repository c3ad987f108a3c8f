# SPDX-License-Identifier: Apache-2.0
"""Speculative completions are transformers' greedy ones, whatever T, batch and slots."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graphrt import DecodeRuntime
from graphrt.errors import CaptureError, ConfigError
from graphrt.models.decode import GreedyDecoder
from graphrt.models.generate import TextGenerator, runtime_config
from graphrt.models.greedy import GreedyStep
from graphrt.models.mamba2 import Mamba2LM
from tests.models.hugging_face import greedy_ids, make_model, save_model
from tools.train_demo_model import byte_tokenizer

PROMPT_LENGTHS = (1, 2, 3, 9, 30, 70, 4)
NEW = 45

MODELS: dict[str, dict[str, Any]] = {
    "base": {},
    "groups_4_tied": {"n_groups": 4, "tie_word_embeddings": True},
    "biases": {"use_bias": True, "use_conv_bias": False},
    "dt_limits": {"time_step_limit": (0.01, 0.05)},
}


def prompts_of(seed: int = 0, lengths: tuple[int, ...] = PROMPT_LENGTHS) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(61) for _ in range(length)] for length in lengths]


class Streamed:
    """Collects tokens as they come, by prompt; a call always brings some."""

    def __init__(self, prompts: int) -> None:
        self.ids: list[list[int]] = [[] for _ in range(prompts)]

    def __call__(self, index: int, new: list[int]) -> None:
        assert new
        self.ids[index] += new


@contextmanager
def decoder(
    directory: Path, end: tuple[int, ...] = (), device: str = "cpu", **options: Any
) -> Iterator[tuple[GreedyDecoder, DecodeRuntime]]:
    model = Mamba2LM.from_pretrained(directory, device)
    model.config = replace(model.config, eos_token_ids=end)
    sizes = {"slots": 3, "tokens": 5, "window": 7, "launch_tokens": (1, 5)} | options
    with DecodeRuntime(runtime_config(model, **sizes)) as runtime:
        runtime.capture(GreedyStep(model))
        yield GreedyDecoder(model, runtime), runtime


def free_slots(runtime: DecodeRuntime) -> int:
    slots = [runtime.admit() for _ in range(runtime.config.slots)]
    for slot in slots:
        runtime.release(slot)
    return len(slots)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    model = make_model()
    return save_model(model, tmp_path_factory.mktemp("base")), model


@pytest.mark.parametrize("fields", MODELS.values(), ids=MODELS)
def test_completions_are_those_of_transformers(tmp_path: Path, fields: dict[str, Any]) -> None:
    theirs = make_model(**fields)
    prompts = prompts_of()
    expected = [greedy_ids(theirs, prompt, NEW) for prompt in prompts]
    with decoder(save_model(theirs, tmp_path)) as (ours, runtime):
        for tokens in (5, 1):
            streamed = Streamed(len(prompts))
            completions, stats = ours.decode(prompts, NEW, tokens=tokens, on_tokens=streamed)
            assert [list(done.token_ids) for done in completions] == expected == streamed.ids
            assert not any(done.stopped for done in completions)
            assert stats.prompt_tokens == sum(PROMPT_LENGTHS)
            assert stats.new_tokens == len(prompts) * NEW
            assert stats.launched_tokens == len(prompts) * (NEW - 1)
            assert stats.launches <= stats.row_launches <= 3 * stats.launches
            if tokens == 1:
                assert stats.tokens_per_launch == 1
            else:
                assert 1 < stats.tokens_per_launch <= 5  # small random models repeat themselves
            assert stats.tokens_per_second > 0
        assert free_slots(runtime) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["base", "groups_4_tied"])
def test_completions_on_a_gpu_are_those_of_the_cpu(tmp_path: Path, name: str) -> None:
    directory = save_model(make_model(**MODELS[name]), tmp_path)
    prompts = prompts_of()
    with decoder(directory, device="cpu") as (on_cpu, _):
        expected, _ = on_cpu.decode(prompts, NEW)
    with decoder(directory, device="cuda") as (ours, _):
        for tokens in (5, 1):
            completions, _ = ours.decode(prompts, NEW, tokens=tokens)
            assert completions == expected


@pytest.mark.parametrize("options", [{"window": 5}, {"slots": 1}, {"slots": 8}, {"window": 32}])
def test_sizes_do_not_matter(base: tuple[Path, Any], options: dict[str, int]) -> None:
    directory, theirs = base
    prompts = prompts_of(seed=1)
    with decoder(directory, **options) as (ours, _):
        completions, _ = ours.decode(prompts, 20)
    assert [list(done.token_ids) for done in completions] == [
        greedy_ids(theirs, prompt, 20) for prompt in prompts
    ]


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 6, 7])
def test_max_new_tokens_is_exact(base: tuple[Path, Any], limit: int) -> None:
    directory, theirs = base
    prompts = prompts_of()
    with decoder(directory) as (ours, _):
        completions, stats = ours.decode(prompts, limit)
    assert [list(done.token_ids) for done in completions] == [
        greedy_ids(theirs, prompt, limit) for prompt in prompts
    ]
    assert (stats.launches == 0) == (limit == 1)


@pytest.mark.parametrize("tokens", [1, 5])
def test_end_tokens_end_a_text_and_are_left_out(base: tuple[Path, Any], tokens: int) -> None:
    directory, theirs = base
    prompts = prompts_of()
    whole = [greedy_ids(theirs, prompt, NEW) for prompt in prompts]
    end = (whole[0][0], whole[4][7])  # one ends a text at once, the other on the way
    expected = [
        next((ids[:at] for at, token in enumerate(ids) if token in end), ids) for ids in whole
    ]
    streamed = Streamed(len(prompts))
    with decoder(directory, end) as (ours, runtime):
        completions, stats = ours.decode(prompts, NEW, tokens=tokens, on_tokens=streamed)
        assert free_slots(runtime) == 3
    assert [list(done.token_ids) for done in completions] == expected == streamed.ids
    stopped = [len(ids) < NEW for ids in expected]
    assert [done.stopped for done in completions] == stopped and expected[0] == []
    assert stats.new_tokens == sum(map(len, expected)) + sum(stopped)


def test_slots_are_released_whatever_is_raised(base: tuple[Path, Any]) -> None:
    directory, theirs = base
    prompts = prompts_of()

    seen = Streamed(len(prompts))

    def interrupt(index: int, new: list[int]) -> None:
        seen(index, new)
        if len(seen.ids[2]) > 1:
            raise KeyboardInterrupt

    with decoder(directory) as (ours, runtime):
        with pytest.raises(KeyboardInterrupt):
            ours.decode(prompts, NEW, on_tokens=interrupt)
        assert free_slots(runtime) == 3
        completions, _ = ours.decode(prompts[:1], 10)
    assert list(completions[0].token_ids) == greedy_ids(theirs, prompts[0], 10)


def test_nothing_to_do(base: tuple[Path, Any]) -> None:
    with decoder(base[0]) as (ours, _):
        completions, stats = ours.decode([], 5)
    assert completions == [] and stats.launches == 0
    assert stats.tokens_per_launch == 0


@pytest.mark.parametrize(
    ("prompts", "limit", "message"),
    [
        ([[1]], 0, "max_new_tokens=0"),
        ([[1], []], 3, r"prompts\[1\]=empty"),
        ([[61]], 3, r"token ids are 0 … 60"),
        ([[-1, 3]], 3, r"token ids are 0 … 60"),
    ],
)
def test_refuses(
    base: tuple[Path, Any], prompts: list[list[int]], limit: int, message: str
) -> None:
    with decoder(base[0]) as (ours, _), pytest.raises(ConfigError, match=message):
        ours.decode(prompts, limit)


def test_refuses_a_t_that_was_not_captured(base: tuple[Path, Any]) -> None:
    with decoder(base[0]) as (ours, runtime):
        with pytest.raises(CaptureError):
            ours.decode([[1]], 5, tokens=2)
        assert free_slots(runtime) == 3


def test_text_in_text_out(tmp_path: Path) -> None:
    theirs = make_model(vocab_size=257)
    save_model(theirs, tmp_path)
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    prompts = ["def main(", "é 日本", "x"]
    expected = [
        bytes(b for b in greedy_ids(theirs, list(prompt.encode()), 30) if b < 256).decode(
            errors="replace"
        )
        for prompt in prompts
    ]
    streamed = [""] * len(prompts)

    def show(index: int, piece: str) -> None:
        assert piece
        streamed[index] += piece

    captured = []
    with TextGenerator.from_directory(
        tmp_path, device="cpu", slots=2, launch_tokens=(1, 6), progress=captured.append
    ) as generator:
        assert generator.model.dtype == torch.float32
        assert len(captured) == 4  # buckets 1 and 2, each for both T
        for tokens in (None, 1):
            streamed[:] = [""] * len(prompts)
            completions, _ = generator.generate(prompts, 30, tokens=tokens, on_text=show)
            assert [done.text for done in completions] == expected == streamed


def test_runtime_config_takes_the_models_sizes(base: tuple[Path, Any]) -> None:
    model = Mamba2LM.from_pretrained(base[0], device="cpu", dtype=torch.bfloat16)
    config = runtime_config(model, slots=6, tokens=3, window=9)
    assert config.buckets == (1, 2, 4, 6)
    assert config.activation_dtype == torch.bfloat16 and config.layers == 3
    assert config.shape == model.config.chain_shape
    assert runtime_config(model, slots=1, tokens=3, window=9).buckets == (1,)
    assert runtime_config(model, slots=4, tokens=3, window=9).buckets == (1, 2, 4)
