# SPDX-License-Identifier: Apache-2.0
"""What tools/latency_gpu found, small enough to be committed: figures, and no machine's paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KIND = "graphrt latency trial"
_COLUMNS = (
    "case",
    "series",
    "quantile",
    "verdict",
    "old_us",
    "new_us",
    "ratio",
    "low",
    "high",
    "p",
)
_CLOCKS = ("clocks.sm", "clocks.max.sm", "power.limit", "clocks_event_reasons.active")
_COMPARISONS = ("comparison", "on_off", "off_on", "found")


def report(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report of a summary: conditions, command, and every section's figures."""
    clocks = {
        moment: {name: told[name] for name in _CLOCKS if name in told}
        for moment, told in summary["clocks"].items()
    }
    sections = {name: _section(found) for name, found in summary["sections"].items()}
    return {
        "kind": KIND,
        "schema": 1,
        "command": summary["command"],
        "quick": summary["quick"],
        "conditions": summary["conditions"],
        "clocks": clocks,
        "passed": not any(found["failures"] for found in sections.values()),
        "columns": _COLUMNS,
        "sections": sections,
    }


def _section(found: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in found.items() if name not in (*_COMPARISONS, "runs")}
    told.pop("traceback", None)
    if "comparison" in found:
        told["comparison"] = _comparison(found["comparison"])
    for name in ("on_off", "off_on"):
        if name in found:
            told[name] = _told(found[name])
    if "found" in found:
        told["found"] = [_told(one) for one in found["found"]]
    if "runs" in found:
        told["runs"] = {
            name: {"rc": run["rc"], "last": run["tail"][-1] if run["tail"] else ""}
            for name, run in found["runs"].items()
        }
    return told


def _told(one: Mapping[str, Any]) -> dict[str, Any]:
    return {**one, "comparison": _comparison(one["comparison"])}


def _comparison(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a comparison with a row a series, in the order of ``columns``."""
    told = {
        name: value for name, value in found.items() if name not in ("kind", "schema", "series")
    }
    return {**told, "series": [_row(series) for series in found["series"]]}


def _row(series: Mapping[str, Any]) -> list[Any]:
    part = "" if series["part"] == "launch" else f" of {series['part']}"
    numbers = ("old_us", "new_us", "ratio", "ratio_low", "ratio_high")
    p = series.get("adjusted_p")
    return [
        series["case"],
        f"{series['quantity']}{part}",
        series["quantile"],
        series["verdict"],
        *(series.get(name) for name in numbers),
        None if p is None else float(f"{p:.2g}"),
    ]
