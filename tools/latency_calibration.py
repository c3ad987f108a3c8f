# SPDX-License-Identifier: Apache-2.0
"""Count how often the latency harness is right on this machine's GPU.

    python -m tools.latency_calibration --seconds 450 --out latency-calibration

Sections in this order, each by itself; one that fails is recorded and the others run:

    self      200 comparisons of the code with itself: at most 5 % with SLOWER or FASTER in them
    kernel    a kernel more, 3, 5 and 10 % of the whole: from 5 % on at least 95 % SLOWER, named
    link      PDL off: as above, by the loss that is measured; the lost links named
    tile      a worse tuning entry of the longest stage: its smaller tile named
    load      a state that is not aligned: the narrower loads named
    wait      waits left out: FASTER, and refused by the gate or held to be unsafe by the audit

It ends when there are as many comparisons as are wanted. What begins within a section's share of
--seconds is finished, what a section leaves goes to the later ones; one that comes to fewer than
are wanted says so and fails. Writes, after every
section, OUT/report.json, to be committed as benchmarks/latency-calibration-GPU.json; every
comparison is a line of OUT/comparisons.jsonl. Without a GPU it tries itself out with tiny counts,
and its verdicts mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from graphrt.bench.conditions import clocks
from graphrt.bench.jsonfile import write_json
from graphrt.config import resolve_device
from graphrt.latency.budget import Budget
from graphrt.latency.cases import default_cases
from graphrt.latency.lock import device_lock
from graphrt.latency.recorder import machine_conditions
from tools.gpu.calibration.bench import BUDGET, QUANTITIES, Bench
from tools.gpu.calibration.sections import SECTIONS, Section, weight

KIND = "graphrt latency calibration"
BATCHES = (64, 128, 256)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sections; return 0 if every one found what it should."""
    args = _parse(argv)
    begin = time.monotonic()
    device = resolve_device(args.device)
    quick = args.quick or device.type != "cuda"
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "comparisons.jsonl"
    log.write_text("", encoding="utf-8")
    bench = Bench(
        device=device,
        cases=default_cases((1, 2), shape="tiny") if quick else default_cases(BATCHES),
        budget=Budget.quick() if quick else BUDGET,
        comparisons=2 if quick else args.comparisons,
        repeats=1 if quick else args.repeats,
        quick=quick,
        conditions=machine_conditions(device, args.commit),
        log=log,
    )
    report: dict[str, Any] = {
        "kind": KIND,
        "schema": 1,
        "command": " ".join(["python -m tools.latency_calibration", *_asked(args)]),
        "quick": quick,
        "conditions": bench.conditions,
        "clocks": {"before": clocks(device)},
        "budget": asdict(bench.budget),
        "quantities": QUANTITIES,
        "case": bench.cases[0].describe(),
    }
    names = args.sections or list(SECTIONS)
    weights = {name: weight(name, bench.comparisons, bench.repeats) for name in names}
    sections: dict[str, dict[str, Any]] = {}
    with device_lock(device, _say), _prepared(bench):
        for place, name in enumerate(names):
            _say(f"[{time.monotonic() - begin:5.1f} s] {name} …")
            now = time.monotonic()
            rest = sum(weights[one] for one in names[place:])
            until = now + (begin + args.seconds - now) * weights[name] / rest
            sections[name] = _run(SECTIONS[name], bench, until)
            report["clocks"][f"after {name}"] = clocks(device)
            report["seconds"] = round(time.monotonic() - begin, 1)
            report["passed"] = not any(one["failures"] for one in sections.values())
            write_json({**report, "sections": sections}, args.out / "report.json")
    for name, found in sections.items():
        for reason in found["failures"]:
            _say(f"FAILED {name}: {reason}")
    _say(f"[{time.monotonic() - begin:5.1f} s] {'passed' if report['passed'] else 'FAILED'}")
    return int(not report["passed"])


@contextlib.contextmanager
def _prepared(bench: Bench) -> Iterator[None]:
    """Compare once, uncounted, so that kernels are compiled; set aside what is alive by then.

    Every build collects garbage: it need not walk through all of PyTorch for it each time.
    """
    case = bench.cases[0]
    bench.compare(bench.side("a", case), bench.side("b", case), case)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _run(section: Section, bench: Bench, until: float) -> dict[str, Any]:
    begin, compared = time.monotonic(), bench.compared
    bench.seconds.clear()
    try:
        found = section(bench, until)
    except Exception as error:  # the other sections still run
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno} {last.name}"
        found = {"failures": [f"{type(error).__name__}: {error}"], "where": where}
    took = time.monotonic() - begin
    made = bench.compared - compared
    each = (
        {what: round(seconds / made, 4) for what, seconds in bench.seconds.items()} if made else {}
    )
    return {"seconds": round(took, 1), "seconds_a_comparison": each, **found}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.latency_calibration", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("latency-calibration"), metavar="DIR")
    parser.add_argument("--seconds", type=float, default=450.0, metavar="S")
    parser.add_argument("--comparisons", type=int, default=200, metavar="N", help="of self")
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="of every fault")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, metavar="NAME")
    parser.add_argument("--device")
    parser.add_argument("--quick", action="store_true", help="tiny counts, to try it out")
    parser.add_argument("--commit", metavar="HASH", help="the commit, where git cannot say")
    return parser.parse_args(argv)


def _asked(args: argparse.Namespace) -> list[str]:
    """Return the arguments that matter for the figures."""
    asked = ["--seconds", f"{args.seconds:g}"]
    asked += ["--comparisons", str(args.comparisons), "--repeats", str(args.repeats)]
    asked += ["--sections", *args.sections] if args.sections else []
    return asked + (["--quick"] if args.quick else [])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
