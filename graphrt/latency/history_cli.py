# SPDX-License-Identifier: Apache-2.0
"""``graphrt latency history``: add recordings to a history, list its steps, write its page."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from graphrt.errors import ConfigError, sentence
from graphrt.latency.compare import compare
from graphrt.latency.files import load
from graphrt.latency.history import Entry, append, read
from graphrt.latency.history_page import page
from graphrt.latency.steps import LEAST, steps


def history(
    args: argparse.Namespace, tell: Callable[[str], object], warn: Callable[[str], object]
) -> int:
    """Run the verb; ``tell`` what was found. Everything is read before anything is written."""
    recordings = [load(path, partial=args.partial) for path in args.add]
    compared = None
    if args.sides:
        compared = compare(*(load(path) for path in args.sides), across=args.across)
    if not recordings and not args.history.exists():
        raise ConfigError(
            sentence(args.history.name, "no such file", "a history begins with --add", "add one")
        )
    for path, recording in zip(args.add, recordings, strict=True):
        if not append(recording, args.history):
            warn(f"{path.name}: is in the history already")
    entries = read(args.history)
    machines: dict[str, list[Entry]] = {}
    for entry in entries:
        machines.setdefault(entry.machine, []).append(entry)
    for machine, group in machines.items():
        tell(f"{machine}: {len(group)} recordings, {group[0].date} … {group[-1].date}")
        found = steps(group)
        for step in found:
            tell(f"    {step}")
        if not found:
            few = (
                f", of which a step needs {LEAST} on either side" if len(group) < 2 * LEAST else ""
            )
            tell(f"    no step{few}")
    if args.html:
        args.html.write_text(page(entries, compared), encoding="utf-8")
    return 0
