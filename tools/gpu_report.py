# SPDX-License-Identifier: Apache-2.0
"""Try the runtime on this machine's GPU, measure it, and write benchmarks/runtime-GPU.json.

    python -m tools.gpu_report [--sections soak links] [--out FILE]

The sections do not depend on each other: what fails is recorded, the others run, and the exit code
is 1. See the module of each under tools/gpu for what it does and how it measures.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphrt.bench.conditions import REPOSITORY, clocks, conditions, gpu_slug
from graphrt.bench.jsonfile import write_json
from graphrt.config import resolve_device
from tools.gpu.demo import demo_speed
from tools.gpu.device_time import device_time
from tools.gpu.eager import graph_equals_eager
from tools.gpu.host import host_cost
from tools.gpu.links import programmatic_links
from tools.gpu.projected import projected
from tools.gpu.report import Section, run_sections
from tools.gpu.sanitizer import sanitizer
from tools.gpu.settings import Settings
from tools.gpu.soak import soak
from tools.gpu.tables import as_text

SECTIONS: dict[str, Section] = {
    "soak": soak,
    "eager": graph_equals_eager,
    "links": programmatic_links,
    "host": host_cost,
    "device_time": device_time,
    "projected": projected,
    "demo": demo_speed,
    "sanitizer": sanitizer,
}
NEED_A_GPU = ("links", "sanitizer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the report; return 0 if every section passed, else 1."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    args = parse(arguments)
    device = resolve_device(args.device)
    settings = Settings(device=device, model=args.model)
    if args.quick:
        settings = Settings.quick(device, args.model)
    chosen = args.sections or [
        name for name in SECTIONS if device.type == "cuda" or name not in NEED_A_GPU
    ]
    out = args.out or REPOSITORY / "benchmarks" / f"runtime-{gpu_slug(device)}.json"
    report: dict[str, Any] = {
        "conditions": conditions(device, args.commit),
        "command": shlex.join(["python", "-m", "tools.gpu_report", *arguments]),
        "quick": args.quick,
        "clocks": {"before": clocks(device)},
    }

    def save(section: str) -> None:
        report["clocks"][f"after {section}"] = clocks(device)
        write_json(report, out)

    def say(line: str) -> None:
        print(line, flush=True)

    run_sections({name: SECTIONS[name] for name in chosen}, settings, report, say, save)
    say(f"\n{as_text(report)}\n\n{report['conditions']['gpu']['name'] or device}, {out.name}")
    return 0 if report["passed"] else 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu_report", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--device", help="default: the current CUDA device")
    parser.add_argument(
        "--sections", nargs="+", choices=SECTIONS, metavar="NAME", help=", ".join(SECTIONS)
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the JSON")
    parser.add_argument("--model", type=Path, metavar="DIR", help="model of the section demo")
    parser.add_argument(
        "--commit", metavar="HASH", help="the commit this is, where git is not there to say it"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny counts and sizes, to try the report itself"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
