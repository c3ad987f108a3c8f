# SPDX-License-Identifier: Apache-2.0
"""The GPU report made on the CPU with tiny counts: its JSON, its tables, and that it can fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graphrt.bench.jsonfile import write_json
from tools import gpu_report
from tools.gpu.report import run_sections
from tools.gpu.settings import Settings
from tools.gpu.tables import TABLES, as_text

pytestmark = pytest.mark.xdist_group("report")  # one worker, which runs the report once

CPU = torch.device("cpu")
ON_A_CPU = [name for name in gpu_report.SECTIONS if name not in gpu_report.NEED_A_GPU]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One report, made as a person would make it."""
    out = tmp_path_factory.mktemp("report") / "benchmarks" / "runtime-cpu.json"
    arguments = ["--device", "cpu", "--quick", "--commit", "abc", "--out", str(out)]
    assert gpu_report.main(arguments) == 0
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    return json.loads(out.read_text(encoding="utf-8"))


def test_every_section_passes(report: dict[str, Any]) -> None:
    assert list(report["sections"]) == ON_A_CPU
    for name, found in report["sections"].items():
        assert found["failures"] == [], name
        assert found["passed"] is True
        assert found["seconds"] >= 0
    assert report["passed"] is True


def test_the_conditions_travel_with_the_figures(report: dict[str, Any]) -> None:
    found = report["conditions"]
    for name in ("date", "graphrt", "python", "torch", "triton", "cuda_bindings", "source_sha256"):
        assert isinstance(found[name], str), name
    assert found["commit"] == {"hash": "abc", "dirty": None}
    assert found["gpu"] == {"name": None}
    assert report["quick"] is True
    assert report["command"].startswith("python -m tools.gpu_report --device cpu --quick")
    assert list(report["clocks"]) == ["before", *(f"after {name}" for name in ON_A_CPU)]
    for name in ("soak", "eager", "device_time"):
        assert report["sections"][name]["config"]["window"] == 16


def test_the_figures_are_all_there(report: dict[str, Any]) -> None:
    sections = report["sections"]
    quick = Settings.quick(CPU)
    found = sections["soak"]
    assert (found["launches"], found["checks"]) == (quick.launches, 12)
    assert found["max_relative_error"] == 0.0  # on a CPU the twins are compared with themselves
    assert found["flushes_checked"] > 0
    assert sections["eager"]["graphs"] == 6
    assert sections["eager"]["launches"] == 6 * quick.eager_launches
    for graph in sections["host"]["graphs"]:
        assert graph["calls"] == 20
        for low, middle, high in zip(
            *(graph[f"{name}_ns"].values() for name in ("p10", "p50", "p90")), strict=True
        ):
            assert 0 < low <= middle <= high
    timings = sections["device_time"]["timings"]
    assert len(timings) == 8
    assert all(timing["back_to_back_us"] > 0 for timing in timings)
    assert all(("cold_us" in timing) == (timing["layers"] == 2) for timing in timings)
    assert all(0 <= timing["flush_share"] <= 1 for timing in timings)
    empty = sections["device_time"]["empty"]
    assert [(one["when"], one["pdl"]) for one in empty] == [
        ("first", True),
        ("later", False),
        ("beside", True),
        ("beside", True),
    ]
    assert all(one["cold_us"] > 0 and one["back_to_back_us"] > 0 for one in empty)
    others = sections["device_time"]["other_states"]
    assert [one["state_dtype"] for one in others] == ["float16", "float32"]
    assert all(one["cold_us"] > 0 and one["rounding"] == "nearest" for one in others)
    runs = sections["demo"]["runs"]
    assert [(run["batch"], run["tokens"]) for run in runs] == [(1, 6), (1, 1), (8, 6), (8, 1)]
    assert all(run["tokens_per_second"] > 0 for run in runs)
    assert [run["tokens_per_launch"] for run in runs if run["tokens"] == 1] == [1, 1]


def test_every_table_renders(report: dict[str, Any]) -> None:
    for name, table in TABLES.items():
        rendered = table(report)
        assert rendered.rows, name
        widths = {line.count("|") for line in rendered.as_markdown().splitlines()}
        assert widths == {len(rendered.header) + 1}, name
    assert as_text(report).splitlines()[-1].startswith("demo")


def test_a_failing_section_leaves_the_others(tmp_path: Path) -> None:
    def broken(settings: Settings) -> dict[str, Any]:
        raise RuntimeError("no such kernel")

    def wrong(settings: Settings) -> dict[str, Any]:
        return {"failures": ["1 is not 2"], "figure": 3}

    said: list[str] = []
    saved: list[str] = []
    report: dict[str, Any] = {}
    sections = {"broken": broken, "wrong": wrong, "fine": lambda settings: {"failures": []}}
    run_sections(sections, Settings.quick(CPU), report, said.append, saved.append)
    assert saved == list(sections)
    assert [found["passed"] for found in report["sections"].values()] == [False, False, True]
    assert report["passed"] is False
    assert report["sections"]["broken"]["failures"] == ["RuntimeError: no such kernel"]
    assert "raise RuntimeError" in "".join(report["sections"]["broken"]["traceback"])
    assert report["sections"]["wrong"]["figure"] == 3
    assert any("1 is not 2" in line for line in said)
    del report["sections"]["fine"]
    assert "no such kernel" in as_text(report)


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json({"figure": 1}, path)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json({"figure": float("nan")}, path)
    assert json.loads(path.read_text()) == {"figure": 1}
    assert list(tmp_path.iterdir()) == [path]
