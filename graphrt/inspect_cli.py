# SPDX-License-Identifier: Apache-2.0
"""``graphrt inspect``: what a captured graph holds, as a tree, a page or JSON; what differs of two.

Works on reports, which need no GPU; ``--demo`` captures a small chain where there is one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

from rich.console import Console

from graphrt.capture.inspect.diff import GraphDiff, diff_reports
from graphrt.capture.inspect.page import page
from graphrt.capture.inspect.report import Report
from graphrt.capture.inspect.schema import dumps, load
from graphrt.capture.inspect.tree import tree
from graphrt.errors import ConfigError, sentence

_WIDEST = 100_000


def main(args: argparse.Namespace) -> int:
    """Print what was asked for; return 1 if ``--diff`` finds a difference, else 0."""
    asked = [bool(args.report), args.demo, bool(args.diff)]
    if sum(asked) != 1:
        raise ConfigError(
            sentence(
                "inspect",
                sum(asked),
                "takes one of REPORT, --demo and --diff A B",
                "pass a report; graphrt.capture.inspect_graph and save make one",
            )
        )
    if args.diff:
        if args.html or args.full:
            raise ConfigError(
                sentence("--diff", "with --html or --full", "is text or JSON", "leave those out")
            )
        return _show_diff(diff_reports(*map(load, args.diff)), args.json)
    _show(demo_report() if args.demo else load(args.report), args)
    return 0


def demo_report() -> Report:
    """Capture three layers of the chain and return what the graph holds. Raises ConfigError."""
    import torch

    from graphrt.capture import inspect_graph

    if not torch.cuda.is_available():
        raise ConfigError(
            sentence(
                "--demo",
                "no GPU",
                "a graph is captured and read on one",
                "run it where `graphrt info` names a GPU, or pass a report that was saved there",
            )
        )
    from graphrt.bench.workload import random_weights
    from graphrt.config import ChainShape, RuntimeConfig
    from graphrt.kernels.links import linked_stages
    from graphrt.runtime import DecodeRuntime
    from graphrt.step import ChainStep

    shape = ChainShape(heads=16, head_dim=64, state_dim=128)
    config = RuntimeConfig(shape=shape, layers=3, slots=8, tokens=6, window=16, buckets=(4,))
    generator = torch.Generator(config.device).manual_seed(0)
    weights = [random_weights(shape, config.activation_dtype, generator) for _ in range(3)]
    with DecodeRuntime(config) as runtime:
        runtime.capture(ChainStep(config, weights))
        captured = runtime.captured[0]
        stages = captured.value.chain.stages
        return inspect_graph(
            captured.graph,
            captured.value.manifest,
            name="three layers of the chain",
            stages=stages,
            linked=linked_stages(config.pdl, stages),
        )


def _show(report: Report, args: argparse.Namespace) -> None:
    if args.html:
        args.html.write_text(page(report), encoding="utf-8")
    if args.json:
        print(dumps(report), end="")
    elif args.html:
        print(f"wrote {args.html}, findings: {len(report.findings)}")
    else:
        console = Console(highlight=False)
        if not console.is_terminal:  # into a file or a pipe every node stays on its line
            console.width = _WIDEST
        console.print(tree(report, full=args.full))


def _show_diff(diff: GraphDiff, as_json: bool) -> int:
    print(json.dumps(dataclasses.asdict(diff) | {"same": diff.same}, indent=1) if as_json else diff)
    return 0 if diff.same else 1
