# SPDX-License-Identifier: Apache-2.0
"""The examples run as scripts, and what they print is right."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from graphrt.capture import load
from graphrt.models.bundled import bundled_model
from graphrt.models.generate import TextGenerator

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_every_example_is_tested_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "latency_of_a_module.py",
        "inspect_torch_graph.py",
        "one_layer.py",
        "speculative_loop.py",
    }


def test_the_stale_weight_of_a_plain_model_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    run("inspect_torch_graph.py")
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert re.search(r"error: .*, node \d+: argument 0, .* which was 2.weight \+ 0", printed)
    assert ("no GPU: reading" in printed) != torch.cuda.is_available()


def test_the_example_fails_if_the_stale_weight_is_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    example = runpy.run_path(str(EXAMPLES / "inspect_torch_graph.py"), run_name="example")
    sound = load(EXAMPLES.parent / "tests" / "capture" / "reports" / "torch-mlp.json.gz")
    names = example["main"].__globals__
    monkeypatch.setitem(names, "load", lambda path: sound)
    monkeypatch.setitem(names, "captured_report", lambda: sound)
    with pytest.raises(SystemExit, match="not found"):
        example["main"]()


def test_one_layer_agrees_with_its_plain_loop(capsys: pytest.CaptureFixture[str]) -> None:
    run("one_layer.py")
    printed = capsys.readouterr().out
    found = re.search(r"^100 launches on (\w+).*, largest relative error (\S+)$", printed, re.M)
    assert found
    assert 0 < float(found[2]) <= (1e-5 if found[1] == "cpu" else 1e-3)


def test_one_layer_refuses_a_wrong_loop(capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLES / "one_layer.py"), run_name="example")
    loop = example["TokenLoop"]
    launch = loop.launch
    loop.launch = lambda self, xbc, dt, accepted: launch(self, xbc, dt, max(accepted - 1, 0))
    with pytest.raises(SystemExit, match="differ"):
        example["main"]()
    assert "largest relative error" in capsys.readouterr().out


def test_the_loop_decodes_what_one_token_at_a_time_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = run("speculative_loop.py")
    prompts, new_tokens = example["PROMPTS"], example["NEW_TOKENS"]
    *lines, last = capsys.readouterr().out.splitlines()
    texts = dict(line.split(": ", 1) for line in lines)
    with TextGenerator.from_directory(
        bundled_model(), dtype=torch.float32, slots=1, tokens=1
    ) as generator:
        expected = [generator.generate([prompt], new_tokens)[0][0].text for prompt in prompts]
    assert [ast.literal_eval(texts[f"slot {i}"]) for i in range(len(prompts))] == expected
    found = re.match(r"(\d+) tokens in (\d+) launches on ", last)
    assert found and int(found[1]) == len(prompts) * new_tokens
    assert int(found[2]) < new_tokens - 1  # drafts were accepted


def test_a_module_that_became_slower_is_told_with_its_part(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("latency_of_a_module.py")
    printed = capsys.readouterr().out
    assert re.search(r"^narrow → wide on \w+: SLOWER$", printed, re.M), printed
    assert re.search(r"^    stage: mlp \+\d+\.\d+ µs", printed, re.M), printed
