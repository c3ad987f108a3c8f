# SPDX-License-Identifier: Apache-2.0
"""What ``make latency`` runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tools import latency_baseline


def test_the_committed_predictions_are_not_exceeded(capsys: pytest.CaptureFixture[str]) -> None:
    """Where a tuning table was added or removed since, nothing is compared, and that is said."""
    file = latency_baseline.FOLDER / "latency-predicted-sm_90.json"
    assert json.loads(file.read_text())["kind"] == "graphrt latency prediction"
    code = latency_baseline._predicted(False, latency_baseline.cli.main, file)
    assert code == 0, capsys.readouterr().err


def test_a_prediction_that_rose_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "predicted.json"
    assert latency_baseline._predicted(True, latency_baseline.cli.main, file) == 0
    told = json.loads(file.read_text())
    name = next(iter(told["cases"]))
    told["cases"][name]["us"] *= 0.9
    file.write_text(json.dumps(told))
    capsys.readouterr()
    assert latency_baseline._predicted(False, latency_baseline.cli.main, file) == 1
    assert f"predicted to be slower: {name}" in capsys.readouterr().err
    source = told["cases"][name]["from"]
    other = "model, default tuning" if source.startswith("table") else "table, exact"
    told["cases"][name]["from"] = other
    file.write_text(json.dumps(told))
    assert latency_baseline._predicted(False, latency_baseline.cli.main, file) == 0
    assert (
        "1 of 24 cases are predicted from the tuning table on one side" in capsys.readouterr().err
    )


@pytest.mark.parametrize("has_gpu", [False, True])
def test_which_commands_are_run(
    has_gpu: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    asked: list[list[str]] = []

    def run(argv: Sequence[str]) -> int:
        asked.append([word.rpartition("/")[2] for word in argv])
        return 1 if "compare" in argv else 0

    predicted, baseline = "latency-predicted-sm_90.json", "latency-baseline-h200.json"
    assert latency_baseline.main([], run, tmp_path) == 0
    assert asked == [["latency", "static", "--against", predicted]]
    said = capsys.readouterr().err
    assert ("--write" if has_gpu else "no GPU: nothing was timed") in said
    if has_gpu:
        (tmp_path / baseline).touch()
        assert latency_baseline.main([], run, tmp_path) == 1
        assert asked[-1] == ["latency", "compare", baseline]
        assert latency_baseline.main(["--write"], run, tmp_path) == 0
        assert asked[-1] == ["latency", "record", "--out", baseline]
