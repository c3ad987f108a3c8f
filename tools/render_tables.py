# SPDX-License-Identifier: Apache-2.0
"""Write the tables of README.md and docs/performance.md anew from the reports under benchmarks/.

    python -m tools.render_tables [--check] [FILE ...]

A table stands between two markers, the first of which names a report and one of its tables:

    <!-- table: runtime-h200/host -->
    <!-- end table -->

With --check nothing is written, and the exit code is 1 if a file would change.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tools import bench_tables
from tools.gpu import tables as gpu_tables

TABLES = gpu_tables.TABLES | bench_tables.TABLES
REPOSITORY = Path(__file__).parents[1]
BENCHMARKS = REPOSITORY / "benchmarks"
DOCUMENTS = (REPOSITORY / "README.md", REPOSITORY / "docs" / "performance.md")

_TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end table -->)", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Render every file named, by default all that have tables."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.render_tables", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("files", nargs="*", type=Path, default=[*DOCUMENTS])
    parser.add_argument("--check", action="store_true", help="write nothing, say what would change")
    args = parser.parse_args(argv)
    stale = []
    for path in args.files:
        before = path.read_text(encoding="utf-8")
        after = render(before)
        if after != before:
            stale.append(path)
            if not args.check:
                path.write_text(after, encoding="utf-8")
            print(f"{path}: {'out of date' if args.check else 'written'}")
    return 1 if stale and args.check else 0


def render(text: str, benchmarks: Path = BENCHMARKS) -> str:
    """Return ``text`` with what is between its markers replaced.

    Raises ValueError for a name that is no report's table, and for a marker without its end.
    """
    if text.count("<!-- table:") != len(_TABLE.findall(text)):
        raise ValueError("a marker <!-- table: NAME --> has no <!-- end table --> after it")
    return _TABLE.sub(lambda found: found[1] + _markdown(found[2], benchmarks) + found[3], text)


def _markdown(name: str, benchmarks: Path) -> str:
    report, _, table = name.partition("/")
    path = benchmarks / f"{report}.json"
    if not path.is_file() or table not in TABLES:
        reports = ", ".join(sorted(path.stem for path in benchmarks.glob("*.json"))) or "none"
        raise ValueError(
            f"table={name}: must be REPORT/TABLE; reports: {reports}; tables: {', '.join(TABLES)}"
        )
    found = json.loads(path.read_text(encoding="utf-8"))
    return TABLES[table](found).as_markdown() + "\n"


if __name__ == "__main__":
    sys.exit(main())
