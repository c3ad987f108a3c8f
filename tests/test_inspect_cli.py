# SPDX-License-Identifier: Apache-2.0
"""``graphrt inspect`` on reports: tree, page, JSON, diff, and a sentence for everything else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from graphrt import cli
from graphrt.capture.inspect.schema import dumps, loads, save
from tests.capture.saved_reports import NAMES, path_of, saved
from tools import inspect_graph


def run(*words: object) -> int:
    return cli.main(["inspect", *map(str, words)])


@pytest.mark.parametrize("name", NAMES)
def test_the_tree_of_every_saved_report(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = saved(name)
    assert run(path_of(name)) == 0
    out = capsys.readouterr().out
    nodes = sum(len(body.nodes) for body in report.bodies)
    assert out.startswith(f"{report.name}: {nodes} nodes, ")
    for finding in report.findings:
        assert str(finding) in out


def test_layers_are_folded_and_the_tree_stays_short(capsys: pytest.CaptureFixture[str]) -> None:
    run(path_of("chain-500-layers"))
    out = capsys.readouterr().out
    assert "500 times, nodes 1 to 1500; the first:" in out
    assert len(out.splitlines()) < 20
    assert " ⇠ 1\n" in out and " ← 0\n" in out  # programmatic and full


def test_full_shows_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    run(path_of("chain-bucket-4"), "--full")
    out = capsys.readouterr().out
    assert "rows: i32 = 4" in out
    assert "state_ptr: *fp16 = state + 0" in out
    assert "profile_scratch: * = null" in out


def test_json_is_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path_of("torch-mlp"), "--json") == 0
    assert loads(capsys.readouterr().out) == saved("torch-mlp")


def test_html_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "page.html"
    assert run(path_of("stale-freed"), "--html", target) == 0
    assert capsys.readouterr().out == f"wrote {target}, findings: 1\n"
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_diff_is_1_and_no_diff_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    one, four = path_of("chain-bucket-1"), path_of("chain-bucket-4")
    assert run("--diff", one, one) == 0
    assert "the same graph" in capsys.readouterr().out
    assert run("--diff", one, four) == 1
    assert "argument rows: 1 → 4" in capsys.readouterr().out
    assert run("--diff", one, four, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["same"] and len(found["graph"]) == 14


@pytest.mark.parametrize("words", [[], ["a.json", "--demo"], ["--diff", "a", "b", "--html", "c"]])
def test_what_was_asked_for_must_be_one_thing(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    assert capsys.readouterr().err.startswith("graphrt inspect: ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_demo_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--demo") == 2
    assert "--demo=no GPU: a graph is captured and read on one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        (dumps(saved("while"))[:400], "not JSON"),
        ("[]", "a report says"),
        (dumps(saved("while")).replace('"schema": 1', '"schema": 99'), "schemas up to 1"),
        (dumps(saved("while")).replace('"id":0', '"id":7', 1), "must be its place in the list"),
    ],
    ids=["empty", "truncated", "a list", "newer", "wrong id"],
)
def test_a_file_that_is_no_report(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")
    assert run(path) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_no_such_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "missing.json") == 1
    assert "missing.json" in capsys.readouterr().err


def test_the_script_is_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    save(saved("copies"), path)
    assert inspect_graph.main([str(path)]) == 0
    assert capsys.readouterr().out.startswith("copies: 5 nodes")


def test_the_story_in_the_docs_is_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parent.parent / "docs" / "inspection.md").read_text(encoding="utf-8")
    story = text.partition("### Find the stale pointer")[2].partition("\n### ")[0]
    blocks = re.findall(r"```text\n(.*?)```", story, re.DOTALL)
    run(path_of("stale-replaced"))
    run("--diff", path_of("torch-mlp"), path_of("stale-replaced"))
    printed = capsys.readouterr().out.splitlines()
    quoted = [line for block in blocks for line in block.splitlines() if line != "…"]
    assert len(quoted) > 10
    assert [line for line in quoted if line not in printed] == []
