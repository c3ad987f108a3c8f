# SPDX-License-Identifier: Apache-2.0
"""The console script: ``graphrt info | demo | generate | bench | latency | inspect``.

Each verb's module has ``main(args: argparse.Namespace) -> int`` and is imported when its verb runs.
Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 interrupted. A failure is one sentence on
stderr; ``--debug`` shows the traceback instead.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from graphrt._version import __version__
from graphrt.errors import ConfigError, GraphrtError
from graphrt.latency.arguments import add_latency

_MODULES = {
    "info": "graphrt.info",
    "demo": "graphrt.demo",
    "generate": "graphrt.models.cli",
    "bench": "graphrt.bench.cli",
    "latency": "graphrt.latency.cli",
    "inspect": "graphrt.inspect_cli",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's own) and return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        code: int = importlib.import_module(_MODULES[args.verb]).main(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, head or a pager, has closed its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # whatever failed, a person gets a sentence
        if args.debug:
            raise
        print(f"graphrt {args.verb}: {_describe(error)}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; parsing imports nothing a verb needs."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of a failure")

    parser = argparse.ArgumentParser(
        prog="graphrt", description="Decode runtime for Mamba-2 replay caches."
    )
    parser.add_argument("--version", action="version", version=f"graphrt {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    info = verbs.add_parser(
        "info", parents=[common], help="print versions, GPU, PDL, and what will be used and why"
    )
    info.add_argument("--json", action="store_true", help="print JSON")

    demo = verbs.add_parser(
        "demo", parents=[common], help="decode a few prompts with the model in the package"
    )
    demo.add_argument("--json", action="store_true", help="print the summary and texts as JSON")
    _add_decoding(demo)

    generate = verbs.add_parser(
        "generate", parents=[common], help="continue prompts, greedily and speculatively"
    )
    generate.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="Mamba-2 as Hugging Face stores it: config.json, *.safetensors, tokenizer.json "
        "(default: the model in the package)",
    )
    generate.add_argument(
        "--prompt",
        type=_prompt,
        action="append",
        required=True,
        dest="prompts",
        metavar="TEXT",
        help="text to continue; repeat it to decode a batch",
    )
    _add_decoding(generate)
    _add_bench(
        verbs.add_parser(
            "bench", parents=[common], help="time the chain beside its peers, correct first"
        )
    )
    add_latency(verbs.add_parser("latency", help="record latency, compare it, say why"), common)
    _add_inspect(
        verbs.add_parser("inspect", parents=[common], help="show what a captured graph holds")
    )
    return parser


def _add_inspect(inspect: argparse.ArgumentParser) -> None:
    inspect.add_argument(
        "report", nargs="?", type=Path, metavar="REPORT", help="as graphrt.capture.save writes it"
    )
    inspect.add_argument(
        "--diff",
        nargs=2,
        type=Path,
        metavar=("A", "B"),
        help="what differs from report A to report B; the exit code is 1 if anything does",
    )
    inspect.add_argument(
        "--demo", action="store_true", help="capture a small chain and show it; needs a GPU"
    )
    inspect.add_argument("--full", action="store_true", help="show every argument")
    inspect.add_argument("--html", type=Path, metavar="OUT", help="write a page that works offline")
    inspect.add_argument("--json", action="store_true", help="print JSON")


def _add_bench(bench: argparse.ArgumentParser) -> None:
    dtypes = ("fp32", "bf16", "fp16")
    bench.add_argument(
        "--shape", nargs="+", metavar="NAME", help="rank (default), whole, tiny, or H,P,N,G"
    )
    bench.add_argument("--batch", nargs="+", type=_positive, metavar="N", help="default 1 … 1024")
    bench.add_argument("--tokens", nargs="+", type=_positive, default=[6], metavar="T")
    bench.add_argument(
        "--window", nargs="+", type=_positive, default=[16], metavar="W", help="W ≥ T"
    )
    bench.add_argument("--state-dtype", nargs="+", choices=dtypes, default=["fp16", "fp32"])
    bench.add_argument("--activation-dtype", nargs="+", choices=dtypes, default=["bf16"])
    bench.add_argument("--rounding", choices=("nearest", "stochastic"), default="nearest")
    bench.add_argument("--pdl", choices=("on", "off", "both"), default="on")
    bench.add_argument(
        "--history",
        nargs="+",
        default=["histogram"],
        metavar="H",
        help="what launches accept: histogram, fixed:A, all-flush, no-flush",
    )
    bench.add_argument(
        "--peers", nargs="*", metavar="NAME", help="peers to look for (default: all; none for none)"
    )
    bench.add_argument("--rounds", type=_positive, metavar="N", help="replays of every graph")
    bench.add_argument("--quick", action="store_true", help="tiny counts, to try it out")
    bench.add_argument("--json", action="store_true", help="print JSON")
    bench.add_argument("--out", type=Path, metavar="FILE", help="write JSON, after every case")
    bench.add_argument("--commit", metavar="HASH", help="the commit, where git cannot say")
    bench.add_argument("--device", help="cuda, cuda:1 or cpu (default: cuda where there is one)")


def _add_decoding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--new-tokens", type=_positive, metavar="N", help="tokens to add to each prompt"
    )
    parser.add_argument(
        "--tokens", type=_positive, metavar="T", help="tokens per launch: 1 confirmed + drafts"
    )
    parser.add_argument(
        "--window", type=_positive, metavar="W", help="history tokens a slot may hold, W ≥ T"
    )
    parser.add_argument("--device", help="cuda, cuda:1 or cpu (default: cuda where there is one)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number ≥ 1")
    return int(text)


def _prompt(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("empty: there must be text to go on from")
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that Python could not read come as lone surrogates
        raise argparse.ArgumentTypeError(f"{text!r}: must be UTF-8") from None
    return text


def _describe(error: Exception) -> str:
    if isinstance(error, (GraphrtError, OSError)):
        return " ".join(str(error).split())
    return (
        f"{type(error).__name__}: {' '.join(str(error).split())}; --debug shows where it came from"
    )
