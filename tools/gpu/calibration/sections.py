# SPDX-License-Identifier: Apache-2.0
"""The sections of tools/latency_calibration: each counts how often one promise holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from graphrt.bench.cases import Case
from graphrt.bench.stages import LONGEST, longest_stage
from graphrt.latency.cases import with_settings
from graphrt.latency.chain import Planted
from graphrt.latency.compare import Comparison
from graphrt.latency.interleave import Side
from tools.gpu.calibration import faults
from tools.gpu.calibration.bench import Bench
from tools.gpu.calibration.tally import LossTally, Named, SelfTally
from tools.gpu.calibration.waits import section_wait
from tools.gpu.spinner import measure_spinner

SHARES = (0.03, 0.05, 0.10)


def section_self(bench: Bench, until: float) -> dict[str, Any]:
    """Compare the code with itself."""
    case, tally = bench.cases[0], SelfTally(bench.comparisons)

    def once() -> Comparison:
        return bench.compare(bench.side("a", case), bench.side("b", case), case)

    for found in bench.repeated(bench.comparisons, until, once):
        tally.add(found)
    return {"failures": bench.judged(tally.failures()), "batch": case.batch, **tally.told()}


def section_kernel(bench: Bench, until: float) -> dict[str, Any]:
    """Plant a kernel after the longest stage that takes shares of the whole, its launch included.

    Each at the smallest batch whose share is more than the launch alone.
    """
    spinner = measure_spinner(bench.device)
    whole_us = {case.batch: bench.chain_us(case) for case in bench.cases}
    failures, told = [], {}
    for number, planted in enumerate(SHARES):
        case = next(
            (one for one in bench.cases if planted * whole_us[one.batch] > spinner.launch_us),
            bench.cases[-1],
        )
        work, us = spinner.plant(planted * whole_us[case.batch])
        tally = LossTally(bench.repeats, _kernel_named, planted)
        spun = Planted(longest_stage(case, bench.device), work)

        def once(case: Case = case, spun: Planted = spun) -> Comparison:
            old, new = bench.side("as it is", case), bench.side("planted", case, planted=spun)
            return bench.compare(old, new, case)

        for found in bench.repeated(bench.repeats, _part(until, len(SHARES) - number), once):
            tally.add(found)
        failures += [f"{planted:.0%}: {reason}" for reason in tally.failures()]
        told[f"{planted:.0%}"] = {"batch": case.batch, "planted_us": round(us, 3), **tally.told()}
    return {
        "failures": bench.judged(failures),
        "launch_us": round(spinner.launch_us, 3),
        "us_per_cycle": round(spinner.us_per_cycle, 6),
        "whole_us": {str(batch): round(us, 3) for batch, us in whole_us.items()},
        "planted": told,
    }


def section_link(bench: Bench, until: float) -> dict[str, Any]:
    """Launch without PDL: both links are lost."""
    case = bench.cases[0]
    off = with_settings(case, ["pdl=off"])
    return _planted(bench, until, _link_named, lambda: bench.side("pdl off", off))


def section_tile(bench: Bench, until: float) -> dict[str, Any]:
    """Give the longest stage a worse tuning entry, of smaller tiles."""
    case, fault = bench.cases[0], faults.smaller_tile
    return _planted(bench, until, _tile_named, lambda: bench.side("tile", case, fault=fault))


def section_load(bench: Bench, until: float) -> dict[str, Any]:
    """Let the state begin one element off, so that 16 bytes cannot be loaded at once."""
    case, fault = bench.cases[0], faults.unaligned_state
    return _planted(bench, until, _load_named, lambda: bench.side("load", case, fault=fault))


def _planted(bench: Bench, until: float, named: Named, new: Callable[[], Side]) -> dict[str, Any]:
    case, tally = bench.cases[0], LossTally(bench.repeats, named)

    def once() -> Comparison:
        return bench.compare(bench.side("as it is", case), new(), case)

    for found in bench.repeated(bench.repeats, until, once):
        tally.add(found)
    return {"failures": bench.judged(tally.failures()), "batch": case.batch, **tally.told()}


def _part(until: float, left: int) -> float:
    now = time.monotonic()
    return now + (until - now) / left


def _kernel_named(why: list[str]) -> bool:
    return _stage_named(why) and _has(why, "graph: kernels ", "was absent, is ")


def _link_named(why: list[str]) -> bool:
    return _has(why, "link lost: ")


def _tile_named(why: list[str]) -> bool:
    return _stage_named(why) and any(_has(why, f"tuning: {s} block_head_dim: ") for s in LONGEST)


def _load_named(why: list[str]) -> bool:
    narrower = "_kernel: loads are narrower: "
    return _stage_named(why) and any(_has(why, f"kernel: _{s}{narrower}") for s in LONGEST)


def _stage_named(why: list[str]) -> bool:
    return any(_has(why, f"stage: {stage} ") for stage in LONGEST)


def _has(why: list[str], begins: str, contains: str = "") -> bool:
    return any(line.startswith(begins) and contains in line for line in why)


Section = Callable[[Bench, float], dict[str, Any]]

SECTIONS: dict[str, Section] = {
    "self": section_self,
    "kernel": section_kernel,
    "link": section_link,
    "tile": section_tile,
    "load": section_load,
    "wait": section_wait,
}


def weight(name: str, comparisons: int, repeats: int) -> float:
    """Return a section's share of the time, in comparisons; what faults compile counts as a few."""
    return {"self": comparisons, "kernel": len(SHARES) * repeats}.get(name, repeats + 5)
