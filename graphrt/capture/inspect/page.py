# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML page that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

import html
import json
from importlib.resources import files

from graphrt.capture.inspect.fingerprint import short_fingerprint
from graphrt.capture.inspect.fold import fold, short_name
from graphrt.capture.inspect.report import Report
from graphrt.capture.inspect.schema import dumps

_HEAD = """const data = JSON.parse(document.getElementById("data").textContent);
const report = data.report;
data.bad = new Set(report.findings.filter((f) => f.severity === "error" && f.node >= 0)
  .map((f) => `${f.body || 0}.${f.node}`));
"""


def page(report: Report) -> str:
    """Return the page: findings, the graph with repeated layers folded, arguments, buffers."""
    data = {
        "report": json.loads(dumps(report)),
        "folds": [
            [(run.start, run.period, run.count) for run in fold(report, body)]
            for body in report.bodies
        ],
        "names": [short_name(function.name) for function in report.functions],
        "fingerprint": short_fingerprint(report),
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    parts = {
        "title": html.escape(report.name),
        "css": _file("page.css"),
        # Inside a script element only "</" and "<!--" mean anything to HTML.
        "data": text.replace("<", "\\u003c"),
        "js": _HEAD + _file("graph.js") + _file("page.js"),
    }
    made = _file("page.html")
    # One pass in the order of the template: what was put in is not looked at again.
    pieces = []
    for name, value in parts.items():
        before, mark, made = made.partition("{{" + name + "}}")
        assert mark, name
        pieces += [before, value]
    return "".join([*pieces, made])


def _file(name: str) -> str:
    return (files("graphrt.capture.inspect") / "page_files" / name).read_text(encoding="utf-8")
