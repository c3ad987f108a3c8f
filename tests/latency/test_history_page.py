# SPDX-License-Identifier: Apache-2.0
"""The page of a history, and the verb that writes it."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from graphrt import cli
from graphrt.latency.compare import compare
from graphrt.latency.files import load, save
from graphrt.latency.history_page import page
from tests.helpers.browser import rendered
from tests.latency.test_history import entries, noisy
from tests.latency.test_machine_moved import RECORDINGS

OLD, NEW = (RECORDINGS / f"h200-host-slowed-{number}.json" for number in (1, 2))


class Tags(HTMLParser):
    """Counts tags, keeps text, and sees that what is opened is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in ("meta", "br", "th"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def stepped() -> str:
    values = noisy(0, 20)
    values[10:] *= 1.2
    return page(entries(values), compare(load(OLD), load(NEW)))


def test_a_row_a_series_with_plots_steps_and_verdicts() -> None:
    text = stepped()
    tags = Tags(text)
    assert tags.open == []
    assert "case: marginal SLOWER +" in tags.text and "commit c10" in tags.text
    assert text.count('class="step"') == 1
    assert tags.count["svg"] == 1 + 20  # the history's series, and the medians compared
    assert "host_launch UNDECIDED" in tags.text and "recording-1 → recording-2" in tags.text
    assert "http" not in text and "<script" not in text and "src=" not in text


def test_names_are_escaped() -> None:
    (entry,) = entries([1.0])
    cases = {"<b>&": entry.cases["case"]}
    text = page([replace(entry, cases=cases, machine="<i>")])
    assert "&lt;b&gt;&amp;" in text and "<b>" not in text and "<i>" not in text


def test_the_verb_adds_lists_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, html = tmp_path / "history.jsonl", tmp_path / "page.html"
    assert cli.main(["latency", "history", str(file)]) == 2
    assert "a history begins with --add" in capsys.readouterr().err
    verb = ["latency", "history", str(file)]
    assert cli.main([*verb, "--add", str(OLD), str(NEW), "--html", str(html)]) == 0
    said = capsys.readouterr().out
    assert "NVIDIA H200" in said and "2 recordings" in said and "a step needs 3" in said
    before = file.read_bytes()
    sides = ["--sides", str(OLD), str(NEW)]
    assert cli.main([*verb, "--add", str(NEW), "--html", str(html), *sides]) == 0
    assert "is in the history already" in capsys.readouterr().err
    assert file.read_bytes() == before and Tags(html.read_text()).open == []
    # Six recordings, of which the last three are slower on the device too: a step.
    for number in range(6):
        recording = load(OLD)
        recording.run = f"run {number}"
        for case in recording.cases.values():
            for key, builds in case.series.items():
                factor = (1.2 if number >= 3 else 1.0) * (1 + 0.001 * (number % 2))
                case.series[key] = [[[us * factor for us in b] for b in build] for build in builds]
        save(recording, tmp_path / f"{number}.json")
    more = tmp_path / "more.jsonl"
    files = [str(tmp_path / f"{number}.json") for number in range(6)]
    assert cli.main(["latency", "history", str(more), "--add", *files]) == 0
    assert "batch 8, T 6: gpu_span SLOWER +20." in capsys.readouterr().out


def test_a_browser_shows_it(tmp_path: Path) -> None:
    html = tmp_path / "page.html"
    html.write_text(stepped(), encoding="utf-8")
    seen = rendered(html)
    assert seen.count("<svg") == 21 and "commit c10" in seen
