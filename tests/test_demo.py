# SPDX-License-Identifier: Apache-2.0
"""``graphrt demo`` shows real text, measures what it says, and fails if a text differs."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console

from graphrt import cli
from graphrt.demo import SLOTS, difference
from graphrt.demo_prompts import PROMPTS
from graphrt.demo_view import Panels
from graphrt.models.bundled import bundled_model
from graphrt.models.decode import Completion
from graphrt.models.generate import TextGenerator

NEW = 20
OPTIONS = ["--new-tokens", str(NEW), "--device", "cpu"]
MAX_MODEL_BYTES = 4 << 20


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """What continues each of PROMPTS, decoded alone and token by token."""
    with TextGenerator.from_directory(
        bundled_model(), device="cpu", slots=1, tokens=1
    ) as generator:
        return {
            name: generator.generate([prompt], NEW)[0][0].text for name, prompt in PROMPTS.items()
        }


def global_state() -> tuple[Any, ...]:
    return (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
        torch.get_rng_state().tolist(),
    )


def test_the_model_in_the_package_is_small() -> None:
    names = {path.name for path in bundled_model().iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert sum(path.stat().st_size for path in bundled_model().iterdir()) <= MAX_MODEL_BYTES


def test_json_is_what_was_measured(
    texts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = global_state()
    assert cli.main(["demo", "--json", *OPTIONS]) == 0
    assert global_state() == before
    result = json.loads(capsys.readouterr().out)
    assert result["texts"] == texts
    assert result["difference"] is None
    assert (result["buckets"], result["launch_tokens"]) == ([1, 2, 4], [1, 6])
    assert "CPU default" in result["backend"] and "not for speed" in result["backend"]
    assert result["cache_bytes"] > 1 << 20 and result["buffer_bytes"] > 0
    assert result["capture_seconds"] > 0
    fast, slow = result["speculative"], result["one_token"]
    assert (fast["tokens"], slow["tokens"]) == (6, 1)
    assert fast["prompt_tokens"] == slow["prompt_tokens"] == sum(map(len, PROMPTS.values()))
    assert fast["new_tokens"] == slow["new_tokens"] <= NEW * len(PROMPTS)
    assert 0 < fast["launches"] < slow["launches"]
    assert 1 == slow["tokens_per_launch"] < fast["tokens_per_launch"] <= 6
    for run in (fast, slow):
        assert run["tokens_per_second"] == pytest.approx(run["new_tokens"] / run["seconds"])
    speed_up = fast["tokens_per_second"] / slow["tokens_per_second"]
    assert result["speed_up"] == pytest.approx(speed_up)


def test_plain_lines_hold_every_text_and_the_summary(
    texts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(PROMPTS) > SLOTS
    assert cli.main(["demo", *OPTIONS]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "\x1b" not in printed.out
    places = [
        printed.out.index(f"==> {name} <==\n{prompt}»{texts[name]}\n")
        for name, prompt in PROMPTS.items()
    ]
    assert places == sorted(places)
    captured = re.findall(r"^captured (\d)/6: bucket (\d), T (\d),", printed.out, re.MULTILINE)
    assert captured == [
        ("1", "4", "6"), ("2", "4", "1"), ("3", "2", "6"),
        ("4", "2", "1"), ("5", "1", "6"), ("6", "1", "1"),
    ]  # fmt: skip
    summary = printed.out[places[-1] :]
    for line in ("device", "backend", "captured", "buckets", "memory", "launches", "tokens per s"):
        assert f"\n{line}" in summary
    assert re.search(
        r"\nEvery text is the same as one token at a time, and came \d+\.\d\d times as fast\.\n$",
        summary,
    )


@pytest.mark.parametrize("options", [["--tokens", "1"], ["--tokens", "3", "--window", "3"]])
def test_sizes_do_not_change_the_text(
    options: list[str], texts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", "--json", *OPTIONS, *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["texts"] == texts
    assert result["launch_tokens"] == sorted({1, int(options[1])})


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_another_text_fails_and_is_named(
    json_too: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generate = TextGenerator.generate

    def altered(self: TextGenerator, *args: Any, **options: Any) -> Any:
        completions, stats = generate(self, *args, **options)
        if options.get("tokens") == 1:
            last = completions[-1]
            ids = (*last.token_ids[:3], last.token_ids[3] ^ 1, *last.token_ids[4:])
            completions[-1] = replace(last, token_ids=ids)
        return completions, stats

    monkeypatch.setattr(TextGenerator, "generate", altered)
    assert cli.main(["demo", *OPTIONS, *json_too]) == 1
    printed = capsys.readouterr()
    assert "Every text is the same" not in printed.out
    assert printed.err.count("\n") == 1
    name = list(PROMPTS)[-1]
    assert printed.err.startswith(f"graphrt demo: text of {name}=")
    assert "as one token at a time; new token 4 differs" in printed.err


def test_a_difference_is_found_wherever_it_is() -> None:
    same = [Completion((1, 2), stopped=False, text="ab")] * len(PROMPTS)
    assert difference(same, same) is None
    shorter = [*same[:-1], Completion((1,), stopped=False, text="a")]
    for got, expected in ((shorter, same), (same, shorter)):
        assert "new token 2 differs" in (difference(got, expected) or "")
    stopped = [Completion((1, 2), stopped=True, text="ab"), *same[1:]]
    assert "new token 3 differs" in (difference(stopped, same) or "")


def terminal(width: int = 100, height: int = 40) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, _environ={})


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_terminal_shows_every_text_in_the_end(
    texts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = terminal()
    monkeypatch.setattr("graphrt.demo.Console", lambda **options: console)
    assert cli.main(["demo", *OPTIONS]) == 0
    assert "╭" in shown(console)  # a panel, while they grew
    printed = without_codes(shown(console))
    for name, prompt in PROMPTS.items():
        assert (prompt + texts[name]).rstrip() in re.sub(r" +\n", "\n", printed)
    assert "\x1b[32m" in shown(console)  # accepted drafts, in green
    assert "times as fast." in printed


@pytest.mark.parametrize(("width", "height"), [(60, 24), (100, 30), (200, 50)])
def test_panels_fit_the_terminal_and_show_the_ends(width: int, height: int) -> None:
    console = terminal(width, height)
    view = Panels(console, PROMPTS)
    for index, name in enumerate(PROMPTS):
        view.push(index, f"\nmiddle\n{'long ' * 60}\n\nend of {name}")
    console.print(view.frame())
    lines = without_codes(shown(console)).splitlines()
    assert len(lines) <= height and max(map(len, lines)) <= width
    for name in PROMPTS:
        assert any(f"end of {name}" in line for line in lines)


def test_only_drafts_are_green() -> None:
    console = terminal()
    with Panels(console, {"name": "prompt "}) as view:
        view.push(0, "a")
        view.push(0, "bcd")
    assert "\x1b[2mprompt \x1b[0ma\x1b[32mbc\x1b[0md" in shown(console)


@pytest.mark.gpu
def test_the_demo_on_a_gpu_gives_the_same_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["backend"] == "Triton kernels in CUDA graphs"
    assert torch.cuda.get_device_name() in result["device"]
