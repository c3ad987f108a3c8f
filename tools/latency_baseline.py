# SPDX-License-Identifier: Apache-2.0
"""Compare this tree's latency with the baselines under benchmarks/, as ``make latency`` does.

    python -m tools.latency_baseline                  # compare
    python -m tools.latency_baseline --write          # write the baselines anew, to be committed

On a GPU: latency-baseline-GPU.json, a recording. Anywhere: latency-predicted-sm_90.json, what is
predicted without one. Exit code 1 where something is slower or is predicted to be.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from graphrt import cli
from graphrt.bench.conditions import REPOSITORY

FOLDER = REPOSITORY / "benchmarks"

Run = Callable[[Sequence[str]], int]


def main(argv: Sequence[str] | None = None, run: Run = cli.main, folder: Path = FOLDER) -> int:
    """Compare, or write; return 1 if anything is slower, 2 if a baseline could not be read."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.latency_baseline", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--write", action="store_true", help="write the baselines anew")
    args = parser.parse_args(argv)
    codes = [_predicted(args.write, run, folder / "latency-predicted-sm_90.json")]
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name().split()[-1].lower()
        codes.append(_recorded(args.write, run, folder / f"latency-baseline-{name}.json"))
    else:
        _say("no GPU: nothing was timed")
    return max(codes)


def _predicted(write: bool, run: Run, file: Path) -> int:
    verb = ["latency", "static"]
    return run([*verb, "--out", str(file)] if write else [*verb, "--against", str(file)])


def _recorded(write: bool, run: Run, file: Path) -> int:
    if write:
        return run(["latency", "record", "--out", str(file)])
    if not file.exists():
        _say(f"{file.name}: there is none for this GPU; python -m tools.latency_baseline --write")
        return 0
    return run(["latency", "compare", str(file)])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
