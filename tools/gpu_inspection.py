# SPDX-License-Identifier: Apache-2.0
"""Read graphs back on this machine's GPU, look for planted faults, and save what was seen.

    python -m tools.gpu_inspection --out DIR [--sections chain model]

Writes DIR/summary.json (passed or not and figures, section by section) and DIR/reports.tar.gz: the
reports that tests/capture/reports is filled from. What fails is recorded and the others run; the
exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from graphrt.bench.conditions import conditions
from graphrt.bench.jsonfile import write_json
from graphrt.config import resolve_device
from tools.gpu.inspection import faults, graphs, loops, runs
from tools.gpu.inspection.common import Context
from tools.gpu.report import run_section

SECTIONS: dict[str, Callable[[Context], dict[str, Any]]] = {
    "bad_handles": faults.bad_handles,
    "chain": graphs.chain,
    "layers": graphs.layers,
    "model": graphs.model,
    "torch_mlp": graphs.torch_mlp,
    "copies": graphs.copies,
    "many": graphs.many,
    "stale": faults.stale,
    "contract": faults.contract,
    "poison": runs.poison,
    "delay": runs.delay,
    "overhead": runs.overhead,
    "while": loops.while_loop,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sections; return 0 if every one passed, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_inspection")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, metavar="NAME")
    parser.add_argument("--commit", metavar="HASH", help="where git is not there to say it")
    args = parser.parse_args(argv)
    device = resolve_device("cuda")
    torch.cuda.init()
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = args.sections or list(SECTIONS)
    summary: dict[str, Any] = {"conditions": conditions(device, args.commit), "sections": {}}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        context = Context(Path(folder), device)
        for name in chosen:
            # The sections know their context as the settings that run_section hands on.
            found = run_section(SECTIONS[name], context)  # type: ignore[arg-type]
            summary["sections"][name] = found
            outcome = "passed" if found["passed"] else "FAILED"
            print(f"{name} {outcome} in {found['seconds']:.1f} s", flush=True)
            for failure in found["failures"]:
                print(f"    {str(failure)[:600]}", flush=True)
            for line in found.get("traceback", []):
                print(f"      {line}", flush=True)
            summary["seconds"] = round(time.perf_counter() - start, 1)
            write_json(summary, args.out / "summary.json")
            with tarfile.open(args.out / "reports.tar.gz", "w:gz") as archive:
                for path in sorted(Path(folder).iterdir()):
                    archive.add(path, path.name)
    passed = all(found["passed"] for found in summary["sections"].values())
    print(f"{'passed' if passed else 'FAILED'} in {summary['seconds']:.1f} s")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
