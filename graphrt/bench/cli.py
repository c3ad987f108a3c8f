# SPDX-License-Identifier: Apache-2.0
"""``graphrt bench``: the table or JSON on stdout, progress on stderr."""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.console import Console

from graphrt.bench.cases import DTYPES, SHAPES, Case
from graphrt.bench.conditions import clocks, conditions
from graphrt.bench.jsonfile import write_json
from graphrt.bench.peers import PEERS
from graphrt.bench.run import bench_case
from graphrt.bench.table import as_tables
from graphrt.bench.timing import copy_bandwidth
from graphrt.bench.workload import Effort
from graphrt.config import ChainShape, resolve_device
from graphrt.errors import ConfigError, sentence

SCHEMA = 1
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
QUICK_BATCHES = (1, 2)
_TABLE_WIDTH = 200


def main(args: argparse.Namespace) -> int:
    """Gate and time every case asked for; return 0 if all gates passed, else 1."""
    cases = cases_of(args)
    device = resolve_device(args.device)
    effort = Effort.quick() if args.quick else Effort()
    if args.rounds:
        effort = replace(effort, rounds=args.rounds)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "conditions": conditions(device, args.commit),
        "command": shlex.join(["graphrt", *sys.argv[1:]]),
        "device": str(device),
        "quick": args.quick,
        "contract": {
            "time": "marginal cost in one graph after an ordinary kernel",
            "l2_times": effort.l2_times,
            "rounds": effort.rounds,
        },
        "clocks": {"before": clocks(device)},
        "copy_bytes_per_s": copy_bandwidth(device, effort),
        "cases": [],
    }
    begin = time.perf_counter()
    for number, case in enumerate(cases, start=1):
        found = bench_case(
            case,
            device,
            effort,
            report["copy_bytes_per_s"],
            others=PEERS if args.peers is None else args.peers,
            say=_progress(f"{number}/{len(cases)} {_short(case)}", begin),
        )
        report["cases"].append(found)
        report["clocks"]["after"] = clocks(device)
        _say(_outcome(found))
        if args.out:
            write_json(report, args.out)
    if args.json:
        print(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH).print(as_tables(report))
    return int(any(found["failed"] for found in report["cases"]))


def cases_of(args: argparse.Namespace) -> list[Case]:
    """Return every combination asked for, the batch varying fastest."""
    shapes = [parse_shape(text) for text in args.shape or (["tiny"] if args.quick else ["rank"])]
    batches = args.batch or (QUICK_BATCHES if args.quick else BATCHES)
    pdl = {"on": (True,), "off": (False,), "both": (True, False)}[args.pdl]
    return [
        Case(
            shape=shape,
            batch=batch,
            tokens=tokens,
            window=window,
            state_dtype=DTYPES[state],
            activation_dtype=DTYPES[activation],
            rounding=args.rounding,
            pdl=linked,
            history=history,
        )
        for shape, state, activation, tokens, window, linked, history, batch in itertools.product(
            shapes,
            args.state_dtype,
            args.activation_dtype,
            args.tokens,
            args.window,
            pdl,
            args.history,
            batches,
        )
        if tokens <= window
    ]


def parse_shape(text: str) -> ChainShape:
    """Return a shape by its name, or from ``H,P,N,G``."""
    if text in SHAPES:
        return SHAPES[text]
    parts = text.split(",")
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise ConfigError(
            sentence("--shape", text, f"must be {', '.join(SHAPES)} or H,P,N,G", "16,64,128,1")
        )
    heads, head_dim, state_dim, groups = map(int, parts)
    return ChainShape(heads=heads, head_dim=head_dim, state_dim=state_dim, groups=groups)


def _progress(what: str, begin: float) -> Callable[[str], None]:
    def say(doing: str) -> None:
        _say(f"[{time.perf_counter() - begin:6.1f} s] {what}: {doing} …")

    return say


def _short(case: Case) -> str:
    told = case.describe()
    return (
        f"H {told['heads']} T {told['tokens']} W {told['window']} {told['state_dtype']} "
        f"batch {told['batch']}{'' if case.pdl else ' without PDL'}"
    )


def _outcome(found: dict[str, Any]) -> str:
    if found["failed"]:
        return f"    FAILED: {found['failed']}"
    return "    " + ", ".join(f"{name} {each['us']:.2f}" for name, each in found["times"].items())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
