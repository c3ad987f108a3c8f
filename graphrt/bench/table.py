# SPDX-License-Identifier: Apache-2.0
"""The tables a person reads, rendered from what JSON holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

OURS = ("advance", "conv1d", "precompute", "state_update", "pair", "chain", "launch")


def as_tables(report: dict[str, Any]) -> RenderableType:
    """Return one table for every series of batches, then what was absent and what failed."""
    parts: list[RenderableType] = []
    for cases in _series(report["cases"]):
        parts += [_overview(cases), Text()]
    parts += _remarks(report["cases"])
    gpu = report["conditions"]["gpu"]["name"] or report["device"]
    copied = report["copy_bytes_per_s"] / 1e12
    parts.append(Text(f"{gpu}; a copy moves {copied:.2f} TB/s, floors are taken at that"))
    return Group(*parts)


def _series(cases: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the cases grouped by everything but the batch, in the order they ran."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        grouped.setdefault(_title(case["case"]), []).append(case)
    return list(grouped.values())


def _overview(cases: Sequence[dict[str, Any]]) -> Table:
    """Return a table with a line per batch: every time in µs, GB/s, floor, ratios."""
    others = [
        name
        for name in dict.fromkeys(name for case in cases for name in case["times"])
        if name not in OURS
    ]
    table = Table(title=_title(cases[0]["case"]), title_justify="left", padding=(0, 1))
    for name in ("batch", *OURS, "pair GB/s", "pair % floor", *others):
        table.add_column(name.replace("_", "\n"), justify="right")
    for name in others:
        table.add_column(f"{name}\nx ours".replace("_", "\n"), justify="right")
    for case in cases:
        times = case["times"]
        if not times:
            table.add_row(str(case["case"]["batch"]), *["-"] * (len(table.columns) - 1))
            continue
        table.add_row(
            str(case["case"]["batch"]),
            *(_us(times.get(name)) for name in OURS),
            _number(times["pair"]["gb_per_s"], "{:.0f}"),
            _number(times["pair"]["percent_of_floor"], "{:.0f}"),
            *(_us(times.get(name)) for name in others),
            *(_number(times.get(name, {}).get("times_ours"), "{:.2f}") for name in others),
        )
    return table


def _remarks(cases: Sequence[dict[str, Any]]) -> list[RenderableType]:
    lines: dict[str, None] = {}
    for case in cases:
        what = case["case"]
        if case["failed"]:
            lines[f"FAILED batch {what['batch']}, {_title(what)}: {case['failed']}"] = None
        for name, reason in case.get("absent", {}).items():
            lines[f"without {name}: {reason}"[:400]] = None
    return [Text(line) for line in lines]


def _title(case: dict[str, Any]) -> str:
    return (
        f"H {case['heads']} P {case['head_dim']} N {case['state_dim']} G {case['groups']}, "
        f"T {case['tokens']} W {case['window']}, state {case['state_dtype']}, "
        f"activations {case['activation_dtype']}, {case['rounding']}, {case['history']}, "
        f"PDL {'on' if case['pdl'] else 'off'}; µs"
    )


def _us(timing: dict[str, Any] | None) -> str:
    return "-" if timing is None else f"{timing['us']:.2f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
