# SPDX-License-Identifier: Apache-2.0
"""One case from start to end: tensors, gates, then every contender timed in the same rounds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch

from graphrt.bench.cases import Case
from graphrt.bench.contender import Contender, Unavailable
from graphrt.bench.gate import check_advance, check_chain
from graphrt.bench.peers import PEERS, peers
from graphrt.bench.stages import (
    PAIR,
    advance_calls,
    chain_calls,
    chosen_launch,
    parts_of,
    stage_calls,
)
from graphrt.bench.timing import Timed, Timing, Work, marginal_times
from graphrt.bench.traffic import floor_bytes
from graphrt.bench.workload import Effort, Workload
from graphrt.bench.yardsticks import yardsticks
from graphrt.errors import GraphrtError

Say = Callable[[str], object]


def bench_case(
    case: Case,
    device: torch.device,
    effort: Effort,
    bandwidth: float,
    *,
    others: Iterable[str] = PEERS,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Gate and time one case; return what JSON can hold.

    bandwidth: bytes per second that floors are taken at. others: names of peers to look for. A
    failure of ours becomes ``failed`` and there are no times; one of another's is under ``absent``.
    """
    report: dict[str, Any] = {"case": case.describe(), "failed": None, "gates": {}, "absent": {}}
    report["times"] = {}
    try:
        _measure(case, device, effort, bandwidth, set(others), say, report)
    except (GraphrtError, RuntimeError) as reason:
        report["failed"] = f"{type(reason).__name__}: {reason}"
    gc.collect()
    if device.type == "cuda":
        with suppress(RuntimeError):  # a device that failed for good fails here too
            torch.cuda.empty_cache()
    return report


def _measure(
    case: Case,
    device: torch.device,
    effort: Effort,
    bandwidth: float,
    others: set[str],
    say: Say,
    report: dict[str, Any],
) -> None:
    """Fill ``report``, its times last. Everything allocated is let go on return."""
    say("tensors")
    work = Workload(case, device, effort)
    launch = chosen_launch(work)
    report |= {
        "slots": work.config.slots,
        "calls": len(work.calls),
        "flush_share": round(work.flush_share, 4),
        "launch": {"match": launch.match, **launch.choice()},
    }
    say("gates")
    contenders = our_contenders(work)
    for contender in contenders:
        report["gates"][contender.name] = contender.check()
    guests, report["absent"] = _guests(work, effort, others, say)
    for guest, error in guests:
        report["gates"][guest.name] = error
        contenders.append(guest)
    say("timing")
    times = marginal_times({c.name: c.timed for c in contenders}, device, effort)
    work.check_finite()
    report["times"] = _figures(case, contenders, times, bandwidth)


def our_contenders(work: Workload) -> list[Contender]:
    """Return the chain, its stages one by one and together, advance, and the whole launch."""
    chain, whole = chain_calls(work), chain_calls(work, advance=True)
    parts = {name: stage_calls(work, s) for name, s in parts_of(chosen_launch(work)).items()}
    advance = advance_calls(work)
    convolution = stage_calls(work, ("conv1d",))

    def check_whole() -> float:
        work.restore()
        worst = check_chain("launch", work, lambda index: whole[index]())
        work.restore()
        return worst

    def check_parts(name: str) -> Callable[[], float]:
        """Return a check of the chain put together from its stages, ``name``'s among them."""

        def run(index: int) -> None:
            convolution[index]()
            for stage in ("pair",) if name == "pair" else PAIR:
                parts[stage][index]()

        return lambda: check_chain(name, work, run)

    def check_advancing() -> float:
        check_advance(work, lambda index: advance[index]())
        return 0.0

    found = [
        Contender("chain", Timed(chain), lambda: _checked(work, chain), "chain", "chain"),
        Contender("launch", Timed(whole, work.restore), check_whole, "chain", "chain"),
        Contender("advance", Timed(advance, work.restore), check_advancing, None, None),
    ]
    found += [
        Contender(name, Timed(calls), check_parts(name), name, name)
        for name, calls in parts.items()
    ]
    return found


def _checked(work: Workload, chain: list[Work]) -> float:
    return check_chain("chain", work, lambda index: chain[index]())


def _guests(
    work: Workload, effort: Effort, others: set[str], say: Say
) -> tuple[list[tuple[Contender, float]], dict[str, str]]:
    """Return the yardsticks and peers that passed, with their errors; why each other is absent."""
    guests: list[tuple[Contender, float]] = []
    absent: dict[str, str] = {}
    builders = {
        **yardsticks(work, effort),
        **dict(zip(PEERS, peers(work, effort), strict=True)),
    }
    for name, build in builders.items():
        if name in PEERS and name not in others:
            continue
        say(name)
        try:
            guest = build()
            guests.append((guest, guest.check()))
        except Unavailable as why:
            absent[name] = str(why)
        except Exception as error:  # another's failure is no reason to lose our own figures
            absent[name] = f"failed: {type(error).__name__}: {error}"
    return guests, absent


def _figures(
    case: Case, contenders: Iterable[Contender], times: Mapping[str, Timing], bandwidth: float
) -> dict[str, Any]:
    """Return each contender's time, bandwidth, share of its floor, and ratio to ours."""
    floors = floor_bytes(case)
    figures: dict[str, Any] = {}
    for contender in contenders:
        timing = times[contender.name]
        found: dict[str, Any] = {**timing.describe(), "settings": dict(contender.settings)}
        if contender.floor is not None:
            needed = floors[contender.floor]
            floor_us = needed / bandwidth * 1e6
            found |= {
                "floor_bytes": round(needed),
                "floor_us": round(floor_us, 3),
                "gb_per_s": round(needed / timing.us / 1e3, 1) if timing.us > 0 else None,
                "percent_of_floor": round(100 * floor_us / timing.us, 1) if timing.us > 0 else None,
            }
        if contender.beside not in (None, contender.name):
            ours = times[contender.beside].us
            found["beside"] = contender.beside
            found["times_ours"] = round(timing.us / ours, 3) if ours > 0 else None
        figures[contender.name] = found
    return figures
