# SPDX-License-Identifier: Apache-2.0
"""Try the latency harness on this machine's GPU: does it tell a loss from none, and why?

    python -m tools.latency_gpu --seconds 120 --out latency-gpu

Sections in this order, each by itself; one that fails is recorded and the others run:

    record     two recordings of the same code, compared as files: SAME or UNDECIDED
    planted    kernels that take a few percent of a stage each: SLOWER, the stage named
    pdl        PDL on against off: SLOWER, the lost links named
    pytest     the plugin: recorded, compared, a planted loss refused
    commits    this tree against itself in two processes: SAME or UNDECIDED
    self       the same code against itself in turns, for as long as is left: false alarms

What begins within --seconds is finished; 120 are meant for all. Writes, after every section,
OUT/summary.json with all there is and OUT/report.json with what is worth committing, as
benchmarks/latency-trial-GPU.json; recordings beside them. Without a GPU it tries itself out with
tiny counts, and its verdicts mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from graphrt.bench.conditions import clocks, conditions
from graphrt.bench.jsonfile import write_json
from graphrt.config import resolve_device
from graphrt.latency.budget import Budget
from graphrt.latency.cases import default_cases
from graphrt.latency.yardsticks import Yardsticks
from tools.gpu.latency import SECTIONS, Trial
from tools.gpu.latency_report import report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sections; return 0 if every one found what it should."""
    args = _parse(argv)
    device = resolve_device(args.device)
    quick = args.quick or device.type != "cuda"
    begin = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {
        "command": " ".join(["python -m tools.latency_gpu", *_asked(args)]),
        "conditions": conditions(device, args.commit),
        "clocks": {"before": clocks(device)},
        "quick": quick,
        "sections": {},
    }
    cases = default_cases((1, 2), shape="tiny") if quick else default_cases((8, 64))
    with contextlib.closing(Yardsticks(device)) as yardsticks:
        trial = Trial(
            device=device,
            out=args.out.resolve(),
            cases=cases,
            budget=Budget.quick() if quick else Budget(builds=4),
            fast=Budget.quick() if quick else Budget(builds=3, host_calls=16, launches=16),
            yardsticks=yardsticks,
            deadline=begin + args.seconds,
            planted_shares=args.planted,
            quick=quick,
        )
        for name in args.sections or SECTIONS:
            _say(f"[{time.monotonic() - begin:5.1f} s] {name} …")
            summary["sections"][name] = _run(SECTIONS[name], trial)
            summary["clocks"][f"after {name}"] = clocks(device)
            write_json(summary, args.out / "summary.json")
            write_json(report(summary), args.out / "report.json")
    failed = {n: s["failures"] for n, s in summary["sections"].items() if s["failures"]}
    for name, reasons in failed.items():
        _say(f"FAILED {name}: {reasons}")
    _say(f"[{time.monotonic() - begin:5.1f} s] {'FAILED' if failed else 'passed'}")
    return int(bool(failed))


def _run(section: Callable[[Trial], dict[str, Any]], trial: Trial) -> dict[str, Any]:
    begin = time.monotonic()
    if begin > trial.deadline:
        return {"failures": ["left out: no time left"], "seconds": 0.0}
    try:
        found = section(trial)
    except Exception as error:  # the other sections still run
        found = {
            "failures": [f"{type(error).__name__}: {error}"],
            "traceback": traceback.format_exc().splitlines()[-25:],
        }
    return {"seconds": round(time.monotonic() - begin, 1), **found}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.latency_gpu", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("latency-gpu"), metavar="DIR")
    parser.add_argument("--seconds", type=float, default=120.0, metavar="S")
    parser.add_argument("--planted", type=float, nargs="+", default=[0.1, 0.05], metavar="SHARE")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, metavar="NAME")
    parser.add_argument("--device")
    parser.add_argument("--quick", action="store_true", help="tiny counts, to try it out")
    parser.add_argument("--commit", metavar="HASH", help="the commit, where git cannot say")
    return parser.parse_args(argv)


def _asked(args: argparse.Namespace) -> list[str]:
    """Return the arguments that matter for the figures."""
    asked = [
        "--seconds",
        f"{args.seconds:g}",
        "--planted",
        *(f"{share:g}" for share in args.planted),
    ]
    asked += ["--sections", *args.sections] if args.sections else []
    return asked + (["--quick"] if args.quick else [])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
