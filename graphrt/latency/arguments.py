# SPDX-License-Identifier: Apache-2.0
"""The arguments of ``graphrt latency``; importing this imports nothing that the verb needs."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_latency(latency: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Give the verb its own verbs: record, compare, report, history, static."""
    verbs = latency.add_subparsers(dest="latency_verb", required=True, metavar="WHAT")

    record = verbs.add_parser("record", parents=[common], help="record this machine's latency")
    record.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to write it")
    record.add_argument("--label", help="what to call it (default: the file's name)")
    _add_measuring(record)

    compare = verbs.add_parser(
        "compare",
        parents=[common],
        help="compare two recordings, a recording with now, two commits, two configurations",
    )
    compare.add_argument("recordings", nargs="*", type=Path, metavar="FILE", help="old, then new")
    compare.add_argument(
        "--commits", nargs=2, metavar=("OLD", "NEW"), help="take turns; . is the working tree"
    )
    compare.add_argument("--old", nargs="+", metavar="SET=", help="take turns: such as pdl=on")
    compare.add_argument("--new", nargs="+", metavar="SET=", help="take turns: such as pdl=off")
    compare.add_argument(
        "--minimum-effect",
        nargs="+",
        default=[],
        metavar="SHARE",
        help="least change that matters: 0.03, or step=0.05 for one quantity",
    )
    compare.add_argument(
        "--predicted-gain",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="gains beyond it ask for the correctness gate again (default 0)",
    )
    compare.add_argument(
        "--across", action="store_true", help="compare ratios to yardsticks across machines"
    )
    compare.add_argument(
        "--partial", action="store_true", help="accept recordings that were cut off"
    )
    compare.add_argument("--strict", action="store_true", help="UNDECIDED fails too")
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.add_argument("--all", action="store_true", help="show series that are SAME too")
    compare.add_argument("--out", type=Path, metavar="FILE", help="write the comparison as JSON")
    compare.add_argument("--repository", type=Path, metavar="DIR", help="of --commits")
    _add_measuring(compare)

    report = verbs.add_parser("report", parents=[common], help="print what a recording holds")
    report.add_argument("recording", type=Path, metavar="FILE")
    report.add_argument("--partial", action="store_true", help="accept one that was cut off")

    history = verbs.add_parser(
        "history", parents=[common], help="append recordings to a history, find where it steps"
    )
    history.add_argument("history", type=Path, metavar="FILE", help="JSON lines, only appended to")
    history.add_argument("--add", nargs="+", type=Path, default=[], metavar="RECORDING")
    history.add_argument("--partial", action="store_true", help="add recordings that were cut off")
    history.add_argument("--html", type=Path, metavar="PAGE", help="write it as a page of HTML")
    history.add_argument(
        "--sides", nargs=2, type=Path, metavar=("OLD", "NEW"), help="compare them on the page too"
    )
    history.add_argument("--across", action="store_true", help="as for compare")

    static = verbs.add_parser(
        "static", parents=[common], help="predict latency without a GPU, compare with what was"
    )
    static.add_argument("--against", type=Path, metavar="FILE", help="predictions to compare with")
    static.add_argument("--out", type=Path, metavar="FILE", help="write the predictions")
    static.add_argument("--arch", default="sm_90", help="whose tuning table (default sm_90)")
    static.add_argument("--minimum-effect", type=float, default=0.01, metavar="SHARE")


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", nargs="+", type=int, metavar="N", help="default 1 8 64 256")
    parser.add_argument("--shape", default=None, help="rank (default), whole or tiny")
    parser.add_argument("--tokens", type=int, default=6, metavar="T")
    parser.add_argument("--builds", type=int, metavar="N", help="how often all is made anew")
    parser.add_argument("--blocks", type=int, metavar="N", help="blocks of samples in a build")
    parser.add_argument("--quick", action="store_true", help="tiny counts, to try it out")
    parser.add_argument("--device", help="cuda, cuda:1 or cpu (default: cuda where there is one)")
    parser.add_argument("--commit", metavar="HASH", help="the commit, where git cannot say")
