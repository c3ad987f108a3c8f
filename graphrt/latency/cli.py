# SPDX-License-Identifier: Apache-2.0
"""``graphrt latency record | compare | report | history | static``: tables or JSON on stdout.

Exit codes of compare: 0 nothing is slower, 1 something is, or is faster than predicted and no gate
has passed since, or could not be compared; 1 too for UNDECIDED with ``--strict``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from rich.console import Console, RenderableType

from graphrt.bench.cases import Case
from graphrt.bench.conditions import REPOSITORY
from graphrt.bench.jsonfile import write_json
from graphrt.config import resolve_device
from graphrt.errors import ConfigError, sentence
from graphrt.latency import static_gate
from graphrt.latency.budget import Budget
from graphrt.latency.cases import BATCHES, default_cases, with_settings
from graphrt.latency.chain import case_name, chain_builder
from graphrt.latency.compare import Comparison, compare
from graphrt.latency.effects import MinimumEffects
from graphrt.latency.files import load
from graphrt.latency.history_cli import history
from graphrt.latency.interleave import LocalSide
from graphrt.latency.live import compare_live
from graphrt.latency.recorder import record
from graphrt.latency.remote import RemoteSide
from graphrt.latency.render import comparison_tables, recording_table
from graphrt.latency.report import as_json
from graphrt.latency.verdict import Verdict
from graphrt.latency.worktrees import checked_out
from graphrt.latency.yardsticks import Yardsticks

_TABLE_WIDTH = 160


def main(args: argparse.Namespace) -> int:
    """Run one of the verbs."""
    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "record": _record,
        "compare": _compare,
        "report": _report,
        "history": _history,
        "static": _static,
    }
    return verbs[args.latency_verb](args)


def _record(args: argparse.Namespace) -> int:
    device, budget = resolve_device(args.device), _budget(args)
    cases = _cases(args)
    with contextlib.closing(Yardsticks(device)) as yardsticks:
        side = _local(args.label or args.out.stem, cases, device, budget, yardsticks)
        (recording,) = record(
            [side],
            list(cases),
            device,
            budget,
            commit=args.commit,
            save_to=[args.out],
            say=_say,
        )
    failed = {name: case.failed for name, case in recording.cases.items() if case.failed}
    for name, reason in failed.items():
        _say(f"{name} FAILED: {reason}")
    _print(recording_table(recording))
    return int(bool(failed))


def _compare(args: argparse.Namespace) -> int:
    effects = MinimumEffects.parse(args.minimum_effect)
    ways = [bool(args.recordings), bool(args.commits), bool(args.old or args.new)]
    if sum(ways) != 1 or len(args.recordings) > 2:
        raise ConfigError(
            sentence(
                "compare",
                "no or several ways",
                "needs one of: two FILEs, one FILE and now, --commits, --old with --new",
                "see --help",
            )
        )
    if args.commits:
        found = _commits(args, effects)
    elif args.recordings:
        found = _recordings(args, effects)
    else:
        found = _configurations(args, effects)
    if args.out:
        write_json(as_json(found), args.out)
    if args.json:
        print(json.dumps(as_json(found), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _print(comparison_tables(found, everything=args.all))
    undecided = args.strict and found.verdict is Verdict.UNDECIDED
    return int(not found.passed or undecided)


def _recordings(args: argparse.Namespace, effects: MinimumEffects) -> Comparison:
    old = load(args.recordings[0], partial=args.partial)
    if len(args.recordings) == 2:
        new = load(args.recordings[1], partial=args.partial)
    else:
        device, budget = resolve_device(args.device), _budget(args)
        cases = _cases(args)
        with contextlib.closing(Yardsticks(device)) as yardsticks:
            side = _local("now", cases, device, budget, yardsticks)
            (new,) = record([side], list(cases), device, budget, commit=args.commit, say=_say)
    return compare(
        old, new, effects=effects, predicted_gain=args.predicted_gain, across=args.across
    )


def _commits(args: argparse.Namespace, effects: MinimumEffects) -> Comparison:
    device, budget = resolve_device(args.device), _budget(args)
    cases = _cases(args)
    repository = (args.repository or REPOSITORY).resolve()
    with contextlib.ExitStack() as stack:
        trees = [stack.enter_context(checked_out(repository, name)) for name in args.commits]
        old, new = (
            stack.enter_context(RemoteSide(name, tree, cases, device, budget))
            for name, tree in zip(args.commits, trees, strict=True)
        )
        return compare_live(
            (old, new),
            list(cases),
            device,
            budget,
            effects=effects,
            predicted_gain=args.predicted_gain,
            each_conditions=[old.conditions, new.conditions],
            say=_say,
        )


def _configurations(args: argparse.Namespace, effects: MinimumEffects) -> Comparison:
    device, budget = resolve_device(args.device), _budget(args)
    cases = _cases(args)
    with contextlib.closing(Yardsticks(device)) as yardsticks:
        old, new = (
            _local(
                " ".join(settings or ["as it is"]),
                {name: with_settings(case, settings or ()) for name, case in cases.items()},
                device,
                budget,
                yardsticks,
            )
            for settings in (args.old, args.new)
        )
        return compare_live(
            (old, new),
            list(cases),
            device,
            budget,
            effects=effects,
            predicted_gain=args.predicted_gain,
            commit=args.commit,
            say=_say,
        )


def _report(args: argparse.Namespace) -> int:
    _print(recording_table(load(args.recording, partial=args.partial)))
    return 0


def _history(args: argparse.Namespace) -> int:
    return history(args, print, _say)


def _static(args: argparse.Namespace) -> int:
    now = static_gate.predictions(args.arch)
    if args.out:
        static_gate.write(now, args.out)
    for name, told in now["cases"].items():
        print(f"{name}: {told['us']:.2f} µs, {told['from']}")
    if not args.against:
        return 0
    old = static_gate.read(args.against)
    apart = static_gate.incomparable(old, now)
    if apart:
        _say(
            f"{len(apart)} of {len(old['cases'])} cases are predicted from the tuning table on one "
            f"side only and not compared; write {args.against.name} anew with --out"
        )
    risen = static_gate.risen(old, now, args.minimum_effect)
    for line in risen:
        _say(f"predicted to be slower: {line}")
    return int(bool(risen))


def _local(
    label: str,
    cases: dict[str, Case],
    device: torch.device,
    budget: Budget,
    yardsticks: Yardsticks,
) -> LocalSide:
    builders = {name: chain_builder(case, device, budget) for name, case in cases.items()}
    return LocalSide(label, builders, yardsticks)


def _cases(args: argparse.Namespace) -> dict[str, Case]:
    batches: Sequence[int] = args.batch or ((1, 2) if args.quick else BATCHES)
    shape = args.shape or ("tiny" if args.quick else "rank")
    cases = default_cases(batches, shape=shape, tokens=args.tokens)
    return {case_name(case): case for case in cases}


def _budget(args: argparse.Namespace) -> Budget:
    budget = Budget.quick() if args.quick else Budget()
    given = {name: getattr(args, name) for name in ("builds", "blocks")}
    return replace(budget, **{name: value for name, value in given.items() if value is not None})


def _print(what: RenderableType) -> None:
    Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH).print(what)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
