# SPDX-License-Identifier: Apache-2.0
"""The trial that a GPU gets, tried out without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import latency_gpu
from tools.gpu import latency


def test_every_section_runs_and_is_written_down(tmp_path: Path) -> None:
    out = tmp_path / "trial"
    sections = ["record", "planted", "pdl", "self"]
    options = ["--device", "cpu", "--out", str(out), "--planted", "0.1", "--commit", "abc"]
    assert latency_gpu.main([*options, "--sections", *sections]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["sections"]) == sections and summary["quick"]
    assert (out / "recording-2.json").is_file()
    pdl = summary["sections"]["pdl"]["on_off"]
    assert pdl["comparison"]["paired"] and not pdl["failures"]
    assert summary["sections"]["self"]["comparisons"] == 3


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
