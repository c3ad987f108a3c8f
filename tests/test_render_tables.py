# SPDX-License-Identifier: Apache-2.0
"""README's tables are those of the committed reports, and what renders them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import bench_figure, render_tables


def percentiles(launch: int, replay: int) -> dict[str, dict[str, int]]:
    return {
        f"p{percent}_ns": {"graph.launch": launch + shift, "replay": replay + shift}
        for percent, shift in ((10, -1000), (50, 0), (90, 1000))
    }


REPORT = {
    "sections": {
        "host": {
            "graphs": [
                {"kernel_nodes": 4} | percentiles(3512, 4600),
                {"kernel_nodes": 301} | percentiles(3700, 5049),
            ]
        }
    }
}
STALE = """# Title

<!-- table: runtime-toy/host -->
| old |
<!-- end table -->

Text.
"""
FRESH = """# Title

<!-- table: runtime-toy/host -->
| host µs per call, p10 / p50 / p90 | 4 nodes | 301 nodes |
| --- | ---: | ---: |
| graph.launch | 2.51 / 3.51 / 4.51 | 2.70 / 3.70 / 4.70 |
| replay | 3.60 / 4.60 / 5.60 | 4.05 / 5.05 / 6.05 |
<!-- end table -->

Text.
"""


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    (tmp_path / "runtime-toy.json").write_text(json.dumps(REPORT))
    return tmp_path


@pytest.mark.parametrize("path", render_tables.DOCUMENTS, ids=lambda path: path.name)
def test_the_documents_show_what_the_reports_say(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "<!-- table:" in text
    assert render_tables.render(text) == text, "run: python -m tools.render_tables"


def test_the_figure_is_that_of_its_report(tmp_path: Path) -> None:
    assert bench_figure.main(["--check"]) == 0, "run: python -m tools.bench_figure"
    report, figure = bench_figure.DEFAULT
    (tmp_path / "other.svg").write_text(figure.read_text(encoding="utf-8").replace("fp16", "fp61"))
    assert bench_figure.main(["--check", str(report), str(tmp_path / "other.svg")]) == 1


def test_tables_are_rendered_between_their_markers(benchmarks: Path) -> None:
    assert render_tables.render(STALE, benchmarks) == FRESH
    assert render_tables.render(FRESH, benchmarks) == FRESH
    assert render_tables.render(STALE + STALE, benchmarks) == FRESH + FRESH
    assert render_tables.render("no table\n", benchmarks) == "no table\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (STALE.replace("toy/host", "toy/none"), "tables: summary, "),
        (STALE.replace("toy/host", "lost/host"), "reports: runtime-toy;"),
        (STALE.replace("<!-- end table -->", ""), "has no <!-- end table -->"),
        (STALE.replace("<!-- end table -->", "") + STALE, "has no <!-- end table -->"),
    ],
)
def test_a_marker_that_means_nothing_is_refused(benchmarks: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        render_tables.render(text, benchmarks)


def test_check_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "README.md"
    path.write_text(STALE)
    monkeypatch.setattr(render_tables, "render", lambda text: FRESH)
    assert render_tables.main(["--check", str(path)]) == 1
    assert path.read_text() == STALE
    assert render_tables.main([str(path)]) == 0
    assert path.read_text() == FRESH
    assert render_tables.main(["--check", str(path)]) == 0
