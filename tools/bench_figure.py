# SPDX-License-Identifier: Apache-2.0
"""Draw docs/bench.svg, batch against microseconds, from a report of ``graphrt bench``.

python -m tools.bench_figure [--check] [REPORT.json] [FIGURE.svg]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from tools.bench_tables import RING, cells
from tools.gpu.tables import Report

REPOSITORY = Path(__file__).parents[1]
LINES = (
    ("pair", "graphrt", "#0b6e4f", ""),
    (RING, "FlashInfer ring", "#c1440e", ""),
    ("snapshots", "a state per token", "#888888", ""),
    ("read", "bare read of the state", "#3a6ea5", "6 4"),
    ("floor", "bytes at copy speed", "#222222", "2 4"),
)
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 430, 340, 52, 34, 62, 24


def main(argv: Sequence[str] | None = None) -> int:
    """Write the figure; with --check only say whether it would change."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench_figure")
    parser.add_argument("report", nargs="?", type=Path, default=DEFAULT[0])
    parser.add_argument("figure", nargs="?", type=Path, default=DEFAULT[1])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(argv)
    text = draw(json.loads(args.report.read_text(encoding="utf-8")))
    if args.check:
        return int(not args.figure.is_file() or args.figure.read_text(encoding="utf-8") != text)
    args.figure.write_text(text, encoding="utf-8")
    return 0


DEFAULT = (REPOSITORY / "benchmarks" / "bench-h200.json", REPOSITORY / "docs" / "bench.svg")


def draw(report: Report) -> str:
    """Return the figure: one panel a state dtype, both axes logarithmic."""
    total = 2 * WIDTH + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {HEIGHT + 30}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{total}" height="{HEIGHT + 30}" fill="white"/>',
    ]
    most = max(one["case"]["batch"] for one in report["cases"])
    for index, state in enumerate(("fp16", "fp32")):
        parts.append(f'<g transform="translate({index * (WIDTH + GAP)},0)">')
        parts += _panel(report, state, most)
        parts.append("</g>")
    x = LEFT
    for _, label, colour, dash in LINES:
        parts.append(
            f'<line x1="{x}" y1="{HEIGHT + 12}" x2="{x + 22}" y2="{HEIGHT + 12}" '
            f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
            f'<text x="{x + 27}" y="{HEIGHT + 16}">{escape(label)}</text>'
        )
        x += 50 + 6.2 * len(label)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(report: Report, state: str, most: int) -> list[str]:
    """Return one state dtype's lines, on an axis of batches up to ``most``."""
    found = cells(report, state)
    most_x = math.log2(most)

    def place(batch: float, us: float) -> str:
        x = LEFT + (WIDTH - LEFT - 18) * math.log2(batch) / most_x
        y = TOP + (HEIGHT - TOP - BOTTOM) * (3.4 - math.log10(max(us, 0.1))) / 4.4
        return f"{x:.1f},{y:.1f}"

    parts = [f'<text x="{LEFT}" y="20" font-weight="bold">{state} state, µs a layer</text>']
    for power in range(-1, 4):
        y = place(1, 10.0**power).split(",")[1]
        parts.append(
            f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - 18}" y2="{y}" stroke="#dddddd"/>'
            f'<text x="{LEFT - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{10.0**power:g}</text>'
        )
    for batch in found:
        x = place(batch, 1).split(",")[0]
        parts.append(f'<text x="{x}" y="{HEIGHT - 42}" text-anchor="middle">{batch}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 22}" text-anchor="middle">batch</text>')
    for name, _, colour, dash in LINES:
        points = [
            place(batch, times["pair"]["floor_us"] if name == "floor" else times[name]["us"])
            for batch, times in found.items()
            if name == "floor" or name in times
        ]
        parts.append(
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" '
            f'stroke-width="2" stroke-dasharray="{dash}"/>'
        )
    return parts


if __name__ == "__main__":
    sys.exit(main())
