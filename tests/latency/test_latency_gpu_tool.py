# SPDX-License-Identifier: Apache-2.0
"""The trial that a GPU gets, tried out without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphrt.latency.compare import compare
from graphrt.latency.files import load
from graphrt.latency.report import as_json
from tests.latency.test_machine_moved import RECORDINGS
from tools import latency_gpu
from tools.gpu import latency
from tools.gpu.latency_report import report


def test_every_section_runs_and_is_written_down(tmp_path: Path) -> None:
    out = tmp_path / "trial"
    sections = ["record", "planted", "pdl", "self"]
    options = ["--device", "cpu", "--out", str(out), "--planted", "0.1", "--commit", "abc"]
    assert latency_gpu.main([*options, "--sections", *sections]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["sections"]) == sections and summary["quick"]
    assert (out / "recording-2.json").is_file()
    told = json.loads((out / "report.json").read_text())
    assert told["kind"] == "graphrt latency trial" and told["passed"]
    assert told[
        "command"
    ] == "python -m tools.latency_gpu --seconds 120 --planted 0.1 --sections " + (
        "record planted pdl self"
    )
    assert list(told["sections"]) == sections
    rows = told["sections"]["record"]["comparison"]["series"]
    assert {len(row) for row in rows} == {len(told["columns"])}
    assert ["host_launch", 0.5] in [row[1:3] for row in rows]
    assert str(tmp_path) not in json.dumps(told)
    pdl = summary["sections"]["pdl"]["on_off"]
    assert pdl["comparison"]["paired"] and not pdl["failures"]
    assert summary["sections"]["self"]["comparisons"] == 1


def test_a_section_that_raises_is_recorded_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(trial: latency.Trial) -> dict[str, object]:
        raise KeyError("a bug")

    monkeypatch.setitem(latency.SECTIONS, "record", broken)
    options = ["--device", "cpu", "--out", str(tmp_path), "--sections", "record", "self"]
    assert latency_gpu.main(options) == 1
    sections = json.loads((tmp_path / "summary.json").read_text())["sections"]
    assert sections["record"]["failures"] == ["KeyError: 'a bug'"]
    assert any("broken" in line for line in sections["record"]["traceback"])
    assert sections["self"]["failures"] == []


def test_the_last_section_takes_what_is_left() -> None:
    assert list(latency.SECTIONS) == ["record", "planted", "pdl", "pytest", "commits", "self"]


def test_a_report_of_full_comparisons_is_small_and_names_no_path() -> None:
    old, new = (load(RECORDINGS / f"h200-host-slowed-{number}.json") for number in (1, 2))
    told = {"failures": [], "sentences": [], "comparison": as_json(compare(old, new))}
    tail = ["rootdir: /somewhere", "1 failed, 2 passed in 3 s"]
    summary = {
        "command": "c",
        "quick": False,
        "conditions": old.conditions,
        "clocks": old.clocks,
        "sections": {
            "record": told,
            "planted": {"failures": [], "found": [told, told]},
            "pdl": {"failures": [], "on_off": told, "off_on": told},
            "pytest": {"failures": ["late"], "runs": {"planted": {"rc": 1, "tail": tail}}},
            "broken": {"failures": ["x"], "traceback": ["File /somewhere"], "seconds": 0.0},
        },
    }
    found = report(summary)
    text = json.dumps(found, indent=1)
    assert len(text) < 100_000 and "/somewhere" not in text and not found["passed"]
    run = found["sections"]["pytest"]["runs"]["planted"]
    assert run == {"rc": 1, "last": "1 failed, 2 passed in 3 s"}
    row = next(r for r in found["sections"]["record"]["comparison"]["series"] if r[1] == "step")
    assert row[3] == "UNDECIDED" and row[6] > 1.2
