# SPDX-License-Identifier: Apache-2.0
"""A graph held to a file in one assertion of a test."""

from __future__ import annotations

from pathlib import Path

from graphrt.capture.inspect.diff import diff_reports, grouped
from graphrt.capture.inspect.report import Report
from graphrt.capture.inspect.schema import load, save

_SHOWN = 20


def assert_same_graph(report: Report, golden: str | Path, *, update: bool = False) -> None:
    """Raise AssertionError, naming what differs, unless ``report`` is the graph in ``golden``.

    Addresses and what the compiler chose do not count, as in `fingerprint`; declared buffers do.
    update: write ``golden`` anew instead, for a change that is meant. Raises ReportError for a file
    that is no report.
    """
    golden = Path(golden)
    if update:
        save(report, golden)
        return
    if not golden.exists():
        raise AssertionError(f"{golden}: no such file; write it with update=True and keep it")
    diff = diff_reports(load(golden), report)
    if diff.same:
        return
    lines = list(grouped(diff.graph))
    left = len(lines) - _SHOWN
    raise AssertionError(
        "\n".join(
            [
                f"{report.name} is not the graph of {golden}:",
                *(f"  {line}" for line in lines[:_SHOWN]),
                *([f"  and {left} more"] if left > 0 else []),
                "if that is meant, write the file anew with update=True",
            ]
        )
    )
