# SPDX-License-Identifier: Apache-2.0
"""Recording: one side, or several in turns."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from graphrt.bench.conditions import clocks, conditions
from graphrt.latency.budget import Budget
from graphrt.latency.files import save
from graphrt.latency.interleave import Say, Side, take_case
from graphrt.latency.lock import device_lock
from graphrt.latency.recording import Recording

_CPU_MODEL = Path("/proc/cpuinfo")


def record(
    sides: Sequence[Side],
    cases: Sequence[str],
    device: torch.device,
    budget: Budget,
    *,
    commit: str | None = None,
    save_to: Sequence[Path | None] = (),
    say: Say = lambda line: None,
    each_conditions: Sequence[dict[str, Any]] = (),
) -> list[Recording]:
    """Record ``cases`` of every side in turns; return one recording a side, all of one run.

    The device is locked against other recordings meanwhile. save_to: a file a side, written after
    every case (see `graphrt.latency.files`). each_conditions: a side's own, where it is another
    process; else this process's. commit: which, where git cannot say.
    """
    run = secrets.token_hex(8)
    files = list(save_to) or [None] * len(sides)
    with device_lock(device, say):
        shared = machine_conditions(device, commit)
        recordings = [
            Recording(
                label=side.label,
                run=run,
                device=str(device),
                conditions=each_conditions[index] if each_conditions else shared,
                settings=budget.contract(),
                clocks={"before": clocks(device)},
            )
            for index, side in enumerate(sides)
        ]
        for number, case in enumerate(cases, start=1):
            say(f"{number}/{len(cases)} {case} …")
            _record_case(recordings, sides, case, budget)
            for recording, file in zip(recordings, files, strict=True):
                recording.clocks[f"after {case}"] = clocks(device)
                recording.complete = number == len(cases)
                if file is not None:
                    save(recording, file)
    return recordings


def _record_case(
    recordings: Sequence[Recording], sides: Sequence[Side], case: str, budget: Budget
) -> None:
    for recording, taken in zip(recordings, take_case(sides, case, budget), strict=True):
        recording.cases[case] = taken


def machine_conditions(device: torch.device, commit: str | None = None) -> dict[str, Any]:
    """Return the benchmark's conditions, with the CPU's model: host times depend on it."""
    return {**conditions(device, commit), "cpu": _cpu_model()}


def _cpu_model() -> str:
    if _CPU_MODEL.is_file():
        for line in _CPU_MODEL.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
