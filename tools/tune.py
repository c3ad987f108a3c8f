# SPDX-License-Identifier: Apache-2.0
"""Search the launch configurations of this machine's GPU, into graphrt/kernels/tuning/ARCH.json.

    python -m tools.tune [--shape rank whole] [--batch 1 4 16 64 256 1024] [--tokens 6]
                         [--stage state_update] [--dry]

Every kernel of the search is compiled first, by parallel processes that share Triton's cache. Then,
key by key, one stage after the other with what was best so far: the state update and precompute in
the pair; in the chain the fused kernel instead of both, conv1d, and one kernel instead of all; by
the timing contract of graphrt.bench on caches that exceed L2 less often. The winner passes the gate
and is timed by the whole contract before it is written, the table after every key. Of choices
within the noise of the best the first is taken: fewer kernels, the current choice, the smaller.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import graphrt.kernels.tuning as tuning
from graphrt.bench.cases import DTYPES, Case
from graphrt.bench.cli import parse_shape
from graphrt.bench.conditions import conditions
from graphrt.bench.gate import check_chain
from graphrt.bench.jsonfile import write_json
from graphrt.bench.stages import (
    PAIR,
    Stage,
    after_conv1d,
    chosen_launch,
    layer_stages,
    stage_calls,
)
from graphrt.bench.timing import Timed, Work, marginal_times
from graphrt.bench.workload import Effort, Workload
from graphrt.config import resolve_device
from graphrt.errors import GraphrtError
from graphrt.kernels.tuning import (
    ChainLaunch,
    Conv1dLaunch,
    FusedLaunch,
    Key,
    PrecomputeLaunch,
    StateUpdateLaunch,
    architecture,
    find,
)

TABLES = Path(tuning.__file__).parent
NOISE = 0.01
SEARCH_L2_TIMES = 1.5
"""How often the caches of a search exceed L2: capturing more calls takes most of its time."""
BATCHES = (1, 4, 16, 64, 256, 1024)

CONV1D = tuple(
    Conv1dLaunch(channels, warps)
    for channels, warps in ((32, 1), (64, 1), (64, 2), (128, 1), (256, 1), (128, 4), (256, 4))
)
# The first within NOISE of the best is taken.
PRECOMPUTE = tuple(
    PrecomputeLaunch(heads, warps, rows_ahead)
    for rows_ahead in (32, 0)
    for heads, warps in ((4, 1), (8, 2), (2, 1), (4, 4), (16, 2), (16, 4))
)
IN_REGISTERS, IN_SHARED, EARLY, LATE = False, True, True, False
STATE_UPDATE = tuple(
    StateUpdateLaunch(*choice)
    for choice in (
        *((16, 1, IN_REGISTERS, EARLY), (16, 1, IN_SHARED, EARLY), (32, 1, IN_SHARED, EARLY)),
        *((16, 1, IN_SHARED, LATE), (32, 1, IN_SHARED, LATE)),
        *((16, 2, IN_SHARED, EARLY), (16, 4, IN_SHARED, EARLY)),
        (32, 1, IN_REGISTERS, LATE, 168),
    )
)
# With an fp32 state most want 64 rows on four warps, fp16 at 1024 takes least where all slots flush
# with 64 on one.
FUSED = (
    None,  # the pair
    *(
        FusedLaunch(*choice)
        for choice in (
            *((16, 1, IN_REGISTERS), (8, 1, IN_REGISTERS), (16, 2, IN_REGISTERS)),
            *((32, 2, IN_REGISTERS), (64, 4, IN_REGISTERS)),
            *((64, 4, IN_SHARED), (64, 1, IN_SHARED), (32, 2, IN_SHARED)),
            *((32, 1, IN_SHARED), (64, 2, IN_SHARED), (16, 1, IN_SHARED)),
        )
    ),
)
SINGLE = (
    None,  # conv1d by itself
    *(FusedLaunch(*choice, IN_REGISTERS) for choice in ((64, 4), (32, 2), (32, 4), (16, 2))),
    *(FusedLaunch(*choice, IN_SHARED) for choice in ((64, 4), (32, 2))),
)
SEARCH: dict[Stage, tuple[Any, ...]] = {
    "state_update": STATE_UPDATE,
    "precompute": PRECOMPUTE,
    "fused": FUSED,
    "conv1d": CONV1D,
    "single": SINGLE,
}
"""The stages in the order in which they are searched, and their configurations."""
STAGES = tuple(SEARCH)


@dataclass(frozen=True, slots=True)
class Search:
    """What a search of one key found. tried: microseconds by stage and configuration."""

    launch: ChainLaunch
    pair_us: float
    chain_us: float
    tried: dict[str, dict[str, float]]


def main(argv: Sequence[str] | None = None) -> int:
    """Search every key asked for; return 0, or 1 if a key found nothing that is right."""
    args = parse(argv)
    device = resolve_device(args.device)
    cases = cases_of(args)
    effort = Effort.quick() if args.quick else Effort(rounds=args.rounds)
    arch = architecture(device) or str(device)
    path = args.out or TABLES / f"{arch}.json"
    made = conditions(device, args.commit)
    if device.type == "cuda" and args.jobs > 1:
        compile_ahead(cases, args.jobs, args.stage, device)
    failures = 0
    begin = time.perf_counter()
    for number, case in enumerate(cases, start=1):
        told = case.describe()
        where = f"[{time.perf_counter() - begin:6.1f} s] {number}/{len(cases)}"
        what = f"H {told['heads']} T {told['tokens']} {told['state_dtype']} batch {case.batch}"
        what += f" {case.rounding}"
        try:
            found = search(case, device, effort, args.stage)
        except (GraphrtError, RuntimeError) as error:
            failures += 1
            say(f"{where} {what}: FAILED {type(error).__name__}: {error}")
            continue
        say(f"{where} {what}: pair {found.pair_us:.2f} us, {found.launch.choice()}")
        if not args.dry:
            write_entry(path, arch, entry_of(case, found, made))
    return int(failures > 0)


def search(
    case: Case, device: torch.device, effort: Effort, stages: Sequence[Stage] = STAGES
) -> Search:
    """Return the best configuration of each stage in turn; stages left out stay as they are.

    Raises GateError if it is wrong.
    """
    brief = replace(effort, l2_times=min(effort.l2_times, SEARCH_L2_TIMES))
    work = Workload(case, device, brief)
    launch = chosen_launch(work)
    tried: dict[str, dict[str, float]] = {}
    for stage, choices in SEARCH.items():
        if stage not in stages:
            continue
        current = getattr(launch, stage)
        runs: dict[str, Timed] = {}
        # Fewer kernels first: what a step of many layers gains by them is not seen here.
        ordered = sorted(unique((current, *choices), case), key=lambda choice: choice is None)
        named = {label(choice): choice for choice in ordered}
        for name, choice in named.items():
            together, varied = searched(stage, launch, choice)
            calls = stage_calls(work, together, varied)
            if launches(name, calls[0]):
                runs[name] = Timed(calls)
        if not runs:
            raise GraphrtError(f"{stage}: no configuration runs")
        times = {name: t.us for name, t in marginal_times(runs, device, brief).items()}
        launch = replace(launch, **{stage: named[first_within_noise(times)]})
        tried[stage] = {name: round(us, 3) for name, us in times.items()}
    del work, runs, calls
    work = Workload(case, device, effort)
    calls = stage_calls(work, layer_stages(launch), launch)
    check_chain("tuned chain", work, lambda index: calls[index]())
    pair = stage_calls(work, after_conv1d(launch), launch)
    final = marginal_times({"pair": Timed(pair), "chain": Timed(calls)}, device, effort)
    return Search(launch, final["pair"].us, final["chain"].us, tried)


def searched(
    stage: Stage, launch: ChainLaunch, choice: Any
) -> tuple[tuple[Stage, ...], ChainLaunch]:
    """Return what is timed to search ``stage``, and by which configuration, with ``choice`` in it.

    What is chosen before single is so by the chain without it; the fused kernel by itself, where a
    layer is a single kernel now: then it runs behind somebody else's convolution alone.
    """
    apart = launch if stage == "single" else replace(launch, single=None)
    varied = replace(apart, **{stage: choice})
    if stage in PAIR:
        together: tuple[Stage, ...] = PAIR
    elif stage == "fused" and launch.single is not None:
        together = after_conv1d(varied)
    else:
        together = layer_stages(varied)
    return together, varied


def launches(name: str, call: Work) -> bool:
    """Return whether a configuration can be launched on this GPU, and compile it."""
    try:
        call()
    except Exception as error:  # too many registers or too much shared memory
        say(f"    left out {name}: {type(error).__name__}: {error}")
        return False
    return True


def first_within_noise(times: dict[str, float]) -> str:
    """Return the first name whose time is within NOISE of the smallest."""
    least = min(times.values())
    return next(name for name, us in times.items() if us <= least * (1 + NOISE))


def unique(choices: Iterable[Any], case: Case) -> list[Any]:
    """Return the choices that differ for this case: no larger than the shape, each once."""
    shape, kept = case.shape, []
    for choice in choices:
        if isinstance(choice, PrecomputeLaunch) and choice.block_heads > max(
            1, shape.heads_per_group
        ):
            continue
        tiled = isinstance(choice, StateUpdateLaunch | FusedLaunch)
        if tiled and choice.block_head_dim > max(16, shape.head_dim):
            continue
        if choice not in kept:
            kept.append(choice)
    return kept


def compile_ahead(
    cases: Sequence[Case], jobs: int, stages: Sequence[Stage], device: torch.device
) -> None:
    """Compile everything the search launches, into Triton's cache, by ``jobs`` processes."""
    work = list(dict.fromkeys(launched(cases, stages, architecture(device))))
    begin = time.perf_counter()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        failed = sum(pool.map(_compile, work, chunksize=2))
    say(f"compiled {len(work)} launches in {time.perf_counter() - begin:.1f} s, {failed} failed")


def launched(
    cases: Sequence[Case], stages: Sequence[Stage], arch: str | None
) -> Iterator[tuple[Case, tuple[Stage, ...], ChainLaunch]]:
    """Yield all that a search of ``cases`` may launch: with a batch of one, the same kernels."""
    for case in cases:
        launch = find(case.key(), arch, case.window)
        for stage in SEARCH:
            if stage not in stages:
                continue
            for choice in unique((getattr(launch, stage), *SEARCH[stage]), case):
                together, varied = searched(stage, launch, choice)
                # With what other stages are found to want, and as the best is timed in the end.
                apart = replace(varied, single=None)
                pair = replace(apart, fused=None)
                layers = {layer_stages(one) for one in (varied, apart, pair)}
                for timed in {together, *layers, after_conv1d(varied)}:
                    yield case.at(1), timed, varied


def _compile(job: tuple[Case, tuple[Stage, ...], ChainLaunch]) -> int:
    """Launch stages once, so that they are in Triton's cache; return 1 if one cannot be."""
    case, stages, launch = job
    work = Workload(case, resolve_device(None), replace(Effort.quick(), calls=1, most_calls=1))
    try:
        stage_calls(work, stages, launch)[0]()
        torch.cuda.synchronize()
    except Exception:  # the search says what it leaves out
        return 1
    return 0


def entry_of(case: Case, found: Search, made: dict[str, Any]) -> dict[str, Any]:
    """Return a table's entry."""
    return {
        "key": asdict(case.key()),
        "choice": found.launch.choice(),
        "measured_us": {
            "pair": round(found.pair_us, 3),
            "chain": round(found.chain_us, 3),
            "tried": found.tried,
        },
        "measured_at": {"window": case.window, "groups": case.shape.groups, "batch": case.batch},
        "gpu": made["gpu"]["name"],
        "versions": {name: made[name] for name in ("graphrt", "torch", "triton", "source_sha256")},
        "date": made["date"],
    }


def write_entry(path: Path, arch: str, entry: dict[str, Any]) -> None:
    """Put ``entry`` into the table at ``path``, in place of one with the same key."""
    entries: list[dict[str, Any]] = []
    if path.is_file():
        entries = json.loads(path.read_text(encoding="utf-8"))["entries"]
    key = Key(**entry["key"])
    for old in entries:
        if Key(**old["key"]) == key:  # stages that were not searched again keep what was tried
            measured = entry["measured_us"]
            measured["tried"] = old["measured_us"]["tried"] | measured["tried"]
    entries = [old for old in entries if Key(**old["key"]) != key] + [entry]
    entries.sort(key=lambda e: tuple(str(value).zfill(8) for value in e["key"].values()))
    write_json({"arch": arch, "entries": entries}, path)


def label(choice: Any) -> str:
    """Return a configuration as the table's ``tried`` names it."""
    if choice is None:
        return "none"
    return ", ".join(f"{k}={v}" for k, v in asdict(choice).items() if v is not None)


def cases_of(args: argparse.Namespace) -> list[Case]:
    """Return one case a key."""
    return [
        Case(
            shape=shape,
            batch=batch,
            tokens=tokens,
            window=max(args.window, tokens),
            state_dtype=DTYPES[state],
            activation_dtype=DTYPES[activation],
            rounding=rounding,
        )
        for shape, state, activation, rounding, tokens, batch in itertools.product(
            map(parse_shape, args.shape),
            args.state_dtype,
            args.activation_dtype,
            args.rounding,
            args.tokens,
            args.batch,
        )
        if rounding == "nearest" or state != "fp32"  # which is never rounded
    ]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.tune", description=__doc__.partition("\n")[0]
    )
    dtypes = tuple(DTYPES)
    parser.add_argument("--shape", nargs="+", default=["rank"], help="as graphrt bench")
    parser.add_argument("--batch", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[6])
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--state-dtype", nargs="+", choices=dtypes, default=["fp16", "fp32"])
    parser.add_argument("--activation-dtype", nargs="+", choices=dtypes, default=["bf16"])
    parser.add_argument(
        "--rounding", nargs="+", choices=("nearest", "stochastic"), default=["nearest"]
    )
    parser.add_argument(
        "--stage",
        nargs="+",
        choices=STAGES,
        default=list(STAGES),
        help="the others stay as they are",
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=8, help="processes that compile")
    parser.add_argument("--out", type=Path, help="default: the package's table of this GPU")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    parser.add_argument("--quick", action="store_true", help="tiny counts, to try it out")
    parser.add_argument("--commit", metavar="HASH", help="the commit, where git cannot say")
    parser.add_argument("--device", help="default: the current CUDA device")
    return parser.parse_args(argv)


def say(line: str) -> None:
    """Tell the person who waits."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
