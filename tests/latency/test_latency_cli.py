# SPDX-License-Identifier: Apache-2.0
"""``graphrt latency`` as a person runs it, on the CPU with tiny counts."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import pytest

from graphrt import cli
from graphrt.latency.files import load

QUICK = ["--quick", "--device", "cpu", "--batch", "1"]
REPOSITORY = Path(__file__).parents[2]


def test_record_report_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, now = tmp_path / "base.json", tmp_path / "now.json"
    assert cli.main(["latency", "record", *QUICK, "--out", str(base), "--commit", "abc"]) == 0
    assert cli.main(["latency", "record", *QUICK, "--out", str(now)]) == 0
    assert load(base).label == "base"
    assert load(base).conditions["commit"] == {"hash": "abc", "dirty": None}
    assert cli.main(["latency", "report", str(base)]) == 0
    assert "cpu_part of state_update" in capsys.readouterr().out
    out = tmp_path / "comparison.json"
    code = cli.main(["latency", "compare", str(base), str(now), "--json", "--out", str(out)])
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(out.read_text())
    assert code == (0 if found["passed"] else 1)
    assert {one["quantity"] for one in found["series"]} >= {"host_launch", "step", "capture"}
    code = cli.main(["latency", "compare", str(base), *QUICK, "--all", "--minimum-effect", "9"])
    assert code in (0, 1)
    assert "base → now" in capsys.readouterr().out


def test_two_configurations_take_turns(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(
        ["latency", "compare", *QUICK, "--old", "tokens=1", "--new", "tokens=6", "--all"]
    )
    said = capsys.readouterr().out
    assert code in (0, 1) and "tokens=1 → tokens=6" in said and "taken in turns" in said


def test_two_commits_take_turns_and_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("needs the repository's history, this is not a checkout")

    def worktrees() -> str:
        command = ["git", "worktree", "list"]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = cli.main(["latency", "compare", *QUICK, "--commits", "HEAD", ".", "--json", "--all"])
    found = json.loads(capsys.readouterr().out)
    assert code in (0, 1) and found["paired"] and not found["failed"]
    assert (found["old"], found["new"]) == ("HEAD", ".")
    # Other worktrees may come and go meanwhile: ours lie in tmp_path.
    assert str(tmp_path) not in worktrees()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare"], "needs one of"),
        (["compare", "a", "--commits", "x", "y"], "needs one of"),
        (["compare", "--commits", "no-such-commit", "."], "no-such-commit: must be one of"),
        (["compare", "--old", "speed=9", "--new", "pdl=on"], "speed=9: must be one of pdl"),
        (["compare", "--old", "pdl=maybe"], "pdl=maybe: must be one of on, off"),
        (["compare", "a", "--minimum-effect", "fast"], "fast: must be a share"),
        (["compare", "a", "--minimum-effect", "luck=0.1"], "luck: must be one of"),
        (["record", "--out", "x", "--shape", "huge"], "huge: must be one of"),
        (["record", "--out", "x", "--builds", "0"], "builds=0: must be ≥ 1"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["latency", arguments[0], "--device", "cpu", *arguments[1:]]) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.splitlines()) == 1


def test_a_file_that_is_no_recording_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_text('{"kind": 1}')
    assert cli.main(["latency", "report", str(tmp_path / "x.json")]) == 1
    assert cli.main(["latency", "report", str(tmp_path / "none.json")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2
