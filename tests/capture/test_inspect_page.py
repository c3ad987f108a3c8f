# SPDX-License-Identifier: Apache-2.0
"""The page of a report in a real browser, on graphs of 4 to 1,501 nodes that an H200 captured."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from graphrt.capture.inspect.page import page
from graphrt.capture.inspect.report import Finding, Report
from tests.capture.saved_reports import NAMES, saved
from tests.helpers.browser import rendered, screenshot

pytestmark = pytest.mark.xdist_group("browser")


def written(report: Report, folder: Path, more: str = "") -> Path:
    path = folder / "page.html"
    path.write_text(page(report).replace("</body>", f"{more}</body>"), encoding="utf-8")
    return path


def nodes(document: str) -> list[str]:
    return re.findall(r'<g class="(node[^"]*)" data-node="[\d.]+"', document)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_needs_nothing_from_anywhere(name: str) -> None:
    text = page(saved(name))
    assert "default-src 'none'" in text
    links = set(re.findall(r"https?://[^\s\"'<]*", text))
    assert links <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(src|href)=\"(?!data:,)", text)


def test_four_nodes(tmp_path: Path) -> None:
    path = written(saved("chain-bucket-4"), tmp_path)
    document = rendered(path)
    assert 'data-ready="yes"' in document
    assert len(nodes(document)) == 4
    assert document.count('class="edge pdl" d="M') == 1 + 2  # the legend has one
    assert "No findings." in document
    _, width, height = screenshot(path, "four-nodes")
    assert (width, height) == (1500, 1000)


def test_fifteen_hundred_nodes_fold_and_unfold(tmp_path: Path) -> None:
    path = written(saved("chain-500-layers"), tmp_path)
    document = rendered(path)
    assert len(nodes(document)) == 4
    assert re.search(r">. 500</text>", document)
    assert re.search(r">layers\.\*\.conv_weight . 500<", document)
    screenshot(path, "fifteen-hundred-nodes", height=1300)
    assert len(nodes(rendered(path, "all"))) == 1501
    screenshot(path, "fifteen-hundred-nodes-unfolded", "all")


def test_a_finding_comes_first_and_its_node_is_opened(tmp_path: Path) -> None:
    path = written(saved("stale-freed"), tmp_path)
    document = rendered(path)
    assert document.index("2.weight was freed") < document.index('class="node')
    assert nodes(document) == ["node", "node", "node error picked", "node other"]
    assert document.count("freed: 2.weight + 0") == 5
    screenshot(path, "stale-pointer")


def test_a_click_shows_arguments_and_a_click_on_a_buffer_its_nodes(tmp_path: Path) -> None:
    click = "new MouseEvent('click', {bubbles: true})"
    node = f"document.querySelector('[data-node=\"0.3\"]').dispatchEvent({click});"
    cell = "[...document.querySelectorAll('aside td')].find((c) => c.textContent === 'state + 0')"
    row = f"{cell}.dispatchEvent({click});"
    report = saved("chain-bucket-4")
    document = rendered(written(report, tmp_path, f"<script>{node}</script>"))
    assert "state + 0" in document and "global_scratch (hidden)" in document
    assert nodes(document)[3] == "node picked"
    document = rendered(written(report, tmp_path, f"<script>{node}{row}</script>"))
    assert nodes(document) == ["node", "node", "node", "node uses"]
    assert "1 point at it" in document


def test_a_node_inside_a_folded_layer_can_be_opened(tmp_path: Path) -> None:
    document = rendered(written(saved("chain-500-layers"), tmp_path), "0.1498")
    assert "layers.499.conv_weight + 0" in document
    assert nodes(document)[1] == "node picked"


def test_bodies_are_drawn_below(tmp_path: Path) -> None:
    path = written(saved("while"), tmp_path)
    document = rendered(path)
    assert len(nodes(document)) == 4
    assert "Inside: while/0.0" in document


def test_a_model_with_wrapped_rows(tmp_path: Path) -> None:
    path = written(saved("model-step"), tmp_path)
    assert len(nodes(rendered(path, "0.12"))) == 191 - 6 * 24
    screenshot(path, "model-step", "0.12", height=1400)


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=document.body.dataset.evil=1><!--{{js}}"
    report = saved("torch-mlp")
    functions = (replace(report.functions[0], name=evil), *report.functions[1:])
    finding = Finding("error", evil, evil, 0, 0)
    report = replace(report, name=evil, functions=functions, findings=(finding,))
    document = rendered(written(report, tmp_path))
    assert 'data-ready="yes"' in document
    assert "<img" not in document and "data-evil" not in document
