# SPDX-License-Identifier: Apache-2.0
"""A history, and a comparison where there is one, as one page of HTML that needs no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from graphrt.latency.compare import Comparison, SeriesResult
from graphrt.latency.history import Entry
from graphrt.latency.quantities import Key
from graphrt.latency.report import one, sentences
from graphrt.latency.steps import Step, series_of, steps

_WIDTH, _HEIGHT, _EDGE = 260, 44, 4
_STYLE = """
:root { color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif; }
body { margin: 2rem; } h1 { font-size: 1.3rem; }
table { border-collapse: collapse; } caption { text-align: left; padding: .5rem 0; }
th, td { padding: .25rem .75rem; text-align: left; border-bottom: 1px solid #8884; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { display: block; overflow: visible; } polyline { fill: none; stroke: #4a7ebb; }
circle { fill: #4a7ebb; } .step { stroke: #c33; stroke-dasharray: 3 2; }
.old { fill: #8888; } .new { fill: #4a7ebb; }
.SLOWER { color: #c33; font-weight: bold; } .FASTER { color: #293; font-weight: bold; }
.UNDECIDED { color: #a70; }
"""


def page(entries: Sequence[Entry], compared: Comparison | None = None) -> str:
    """Return the page: a row a series with its history, both sides' blocks and the verdict."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.machine, []).append(entry)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Latency</title>',
        f"<style>{_STYLE}</style></head><body><h1>Latency</h1>",
    ]
    if compared is not None:
        parts.append(_comparison(compared))
    parts += [_machine(name, group) for name, group in groups.items()]
    return "\n".join([*parts, "</body></html>", ""])


def _machine(name: str, entries: Sequence[Entry]) -> str:
    found: dict[tuple[str, Key], list[Step]] = {}
    for step in steps(entries):
        found.setdefault((step.case, step.key), []).append(step)
    rows = []
    for case, key in series_of(entries):
        with_it = [entry for entry in entries if key in entry.cases.get(case, {})]
        medians = [float(np.median(entry.cases[case][key])) for entry in with_it]
        moved = found.get((case, key), [])
        marks = [with_it.index(step.entry) for step in moved]
        told = "<br>".join(
            f'<span class="{"SLOWER" if s.ratio > 1 else "FASTER"}">{escape(str(s))}</span>'
            for s in moved
        )
        rows.append(
            f"<tr><td>{escape(case)}</td><td>{escape(str(key))}</td>"
            f'<td class="number">{medians[-1]:.2f}</td>'
            f"<td>{_history_plot(medians, marks)}</td><td>{told}</td></tr>"
        )
    head = "<tr><th>case<th>series<th>newest µs<th>history<th>steps</tr>"
    caption = f"<caption>{escape(name)}: {len(entries)} recordings</caption>"
    return f'<table class="history">{caption}{head}{"".join(rows)}</table>'


def _comparison(found: Comparison) -> str:
    rows = "".join(_row(found, result) for result in found.series if result.quantile == 0.5)
    lines = "".join(f"<li>{escape(line.strip())}</li>" for line in sentences(found))
    head = "<tr><th>case<th>series<th>blocks, old above new<th>verdict</tr>"
    title = f"{escape(found.old.label)} → {escape(found.new.label)}"
    caption = f'<caption>{title}: <span class="{found.verdict}">{found.verdict}</span></caption>'
    return f'<table class="comparison">{caption}{head}{rows}</table><ul>{lines}</ul>'


def _row(found: Comparison, result: SeriesResult) -> str:
    sides = [side.cases[result.case].array(result.key) for side in (found.old, found.new)]
    plot = _sides_plot(*(np.median(side, axis=2).ravel().tolist() for side in sides))
    return (
        f"<tr><td>{escape(result.case)}</td><td>{escape(result.name)}</td><td>{plot}</td>"
        f'<td class="{result.verdict}">{escape(one(result))}</td></tr>'
    )


def _history_plot(values: Sequence[float], marks: Sequence[int]) -> str:
    x = [_at(index, 0, max(len(values) - 1, 1), _WIDTH) for index in range(len(values))]
    y = [_HEIGHT - _at(value, min(values), max(values), _HEIGHT) for value in values]
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    lines = "".join(
        f'<line class="step" x1="{x[m]:.1f}" x2="{x[m]:.1f}" y1="0" y2="{_HEIGHT}"/>' for m in marks
    )
    title = f"<title>{min(values):.2f} … {max(values):.2f} µs</title>"
    newest = f'<circle r="2.5" cx="{x[-1]:.1f}" cy="{y[-1]:.1f}"/>'
    return _svg(f'{title}{lines}<polyline points="{points}"/>{newest}')


def _sides_plot(old: Sequence[float], new: Sequence[float]) -> str:
    low, high = min(*old, *new), max(*old, *new)
    dots = "".join(
        f'<circle class="{name}" r="2.5" cx="{_at(value, low, high, _WIDTH):.1f}" cy="{height}"/>'
        for name, side, height in (("old", old, _HEIGHT // 3), ("new", new, 2 * _HEIGHT // 3))
        for value in side
    )
    return _svg(f"<title>blocks' medians, {low:.2f} … {high:.2f} µs</title>{dots}")


def _svg(inside: str) -> str:
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img">{inside}</svg>'


def _at(value: float, low: float, high: float, size: int) -> float:
    """Return where ``value`` lies between edges; the middle where all values are one."""
    share = 0.5 if math.isclose(low, high) else (value - low) / (high - low)
    return _EDGE + share * (size - 2 * _EDGE)
