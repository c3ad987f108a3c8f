# SPDX-License-Identifier: Apache-2.0
"""``graphrt generate`` through the command line: text on stdout, all else on stderr, exit codes."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from graphrt import cli
from graphrt.models import cli as generate_cli
from graphrt.models.bundled import bundled_model
from graphrt.models.generate import TextGenerator
from graphrt.models.in_order import InOrder

REPOSITORY = Path(__file__).parent.parent
NEW = 24
PROMPTS = ["class A:\n    def a(self):\n        return self.", "import os\nimport ", "x" * 70]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """What continues each of PROMPTS, decoded alone and token by token."""
    with TextGenerator.from_directory(
        bundled_model(), device="cpu", slots=1, tokens=1
    ) as generator:
        return [generator.generate([prompt], NEW)[0][0].text for prompt in PROMPTS]


def whole_lines(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"


def arguments(prompts: list[str], *options: str) -> list[str]:
    given = [word for prompt in prompts for word in ("--prompt", prompt)]
    return ["generate", *given, "--new-tokens", str(NEW), "--device", "cpu", *options]


class Writes(io.StringIO):
    """Standard output that remembers what was written before each flush."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed: list[str] = []

    def flush(self) -> None:
        self.flushed.append(self.getvalue())


def test_one_prompt_streams_text_and_nothing_else(
    texts: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdout = Writes()
    monkeypatch.setattr(sys, "stdout", stdout)
    assert cli.main(arguments(PROMPTS[:1])) == 0
    assert stdout.getvalue() == whole_lines(texts[0])
    stages = list(dict.fromkeys(stdout.flushed))
    assert len(stages) > 4
    assert all(stdout.getvalue().startswith(stage) for stage in stages)
    said = capsys.readouterr().err
    assert said.startswith("captured 1/1: bucket 1, T 6")
    assert f"\n{NEW} tokens in " in said
    assert "tokens per launch, on cpu" in said


@pytest.mark.parametrize("slots", [8, 2])
def test_several_prompts_each_under_its_heading(
    slots: int,
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(generate_cli, "MAX_SLOTS", slots)
    assert cli.main(arguments(PROMPTS, "--tokens", "4", "--window", "5")) == 0
    shown = [repr(PROMPTS[0]), repr(PROMPTS[1]), repr("…" + "x" * 59)]
    assert capsys.readouterr().out == "\n".join(
        f"==> prompt {number} <== {prompt}\n{whole_lines(text)}"
        for number, (prompt, text) in enumerate(zip(shown, texts, strict=True), start=1)
    )


def test_a_model_directory_is_taken(
    texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(bundled_model() / name, tmp_path)
    assert cli.main(arguments(PROMPTS[1:2], "--model", str(tmp_path))) == 0
    assert capsys.readouterr().out == whole_lines(texts[1])


def no_directory(tmp_path: Path) -> list[str]:
    return ["--model", str(tmp_path / "absent")]


def empty_directory(tmp_path: Path) -> list[str]:
    return ["--model", str(tmp_path)]


def no_weights(tmp_path: Path) -> list[str]:
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(bundled_model() / name, tmp_path)
    return ["--model", str(tmp_path)]


def too_many_tokens(tmp_path: Path) -> list[str]:
    return ["--tokens", "17"]


def window_below_tokens(tmp_path: Path) -> list[str]:
    return ["--window", "5"]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (no_directory, 2, "absent: must be a directory"),
        (empty_directory, 1, "tokenizer.json"),
        (no_weights, 1, "model.safetensors"),
        (too_many_tokens, 2, "tokens=17: must be 1 … 16"),
        (window_below_tokens, 2, "window=5: must be tokens (6) … 32"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_failure_is_one_sentence(
    options: Callable[[Path], list[str]],
    code: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(arguments(PROMPTS[:1], *options(tmp_path))) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("graphrt generate: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err


@pytest.mark.parametrize(
    ("prompt", "said"),
    [("", "empty: there must be text to go on from"), ("a\udcff", r"'a\udcff': must be UTF-8")],
)
def test_prompts_that_are_no_text_are_refused(
    prompt: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments([prompt]))
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


def start(argv: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "graphrt", *argv],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def test_python_m_graphrt_generates(texts: list[str]) -> None:
    with start(arguments(PROMPTS[:1])) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out == whole_lines(texts[0])


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    with start(arguments(PROMPTS[:1])) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(timeout=120) == 1
    assert "Traceback" not in err and "Exception" not in err


def test_texts_in_order_are_the_texts_whatever_order_they_come_in() -> None:
    written: list[str] = []
    texts = InOrder(written.append, ["[a]", "[b]\n", "[c]"])
    assert "".join(written) == "[a]"
    texts.push(1, "one ")
    texts.push(2, "two\n")
    texts.push(0, "zero ")
    assert "".join(written) == "[a]zero "
    texts.push(1, "more")
    texts.push(0, "end")
    texts.close()
    assert "".join(written) == "[a]zero end\n\n[b]\none more\n\n[c]two\n"
