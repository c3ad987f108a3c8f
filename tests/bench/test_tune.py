# SPDX-License-Identifier: Apache-2.0
"""What a search of tools.tune times together, and has compiled before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from graphrt.bench.stages import PAIR, Stage
from graphrt.bench.timing import Timed, Timing
from graphrt.bench.workload import Effort, Workload
from graphrt.kernels.tuning import ChainLaunch, FusedLaunch, StateUpdateLaunch, defaults, find
from tools import tune
from tools.tune import searched

SMALL, LARGE = FusedLaunch(8), FusedLaunch(16)
THREE = ("conv1d", *PAIR)


@pytest.mark.parametrize(
    ("stage", "single", "choice", "together"),
    [
        ("state_update", None, StateUpdateLaunch(16), PAIR),
        ("state_update", LARGE, StateUpdateLaunch(16), PAIR),
        ("fused", None, SMALL, ("conv1d", "fused")),
        ("fused", None, None, THREE),
        ("fused", LARGE, SMALL, ("fused",)),  # what a single layer leaves it: one of its own
        ("fused", LARGE, None, PAIR),
        ("single", None, SMALL, ("single",)),
        ("single", LARGE, None, THREE),
    ],
)
def test_what_is_timed_to_search_a_stage(
    stage: Stage, single: FusedLaunch | None, choice: Any, together: tuple[Stage, ...]
) -> None:
    (_, launch), *_ = defaults()
    timed, varied = searched(stage, replace(launch, fused=None, single=single), choice)
    assert timed == together
    assert getattr(varied, stage) == choice


class _Pool:
    """Does in this process what other processes would, in order."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        pass

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    map = staticmethod(lambda function, work, chunksize: map(function, work))


@pytest.mark.parametrize("best", [0, -1], ids=["first", "last"])
def test_all_that_a_search_launches_is_compiled_before(
    best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, in the process that times, kernels take 20 s a case and not one."""
    kernels: set[tuple[Stage, Any, Stage]] = set()

    def stage_calls(work: Workload, stages: Sequence[Stage], launch: ChainLaunch) -> list[Any]:
        # What a kernel is besides: only the first of a call is launched normally.
        kernels.update((stage, getattr(launch, stage), stages[0]) for stage in stages)
        return [lambda: None]

    def marginal_times(runs: dict[str, Timed], *_: object) -> dict[str, Timing]:
        order = list(runs)[:: 1 if best == 0 else -1]
        return {name: Timing(order.index(name) + 1.0, 0.0, 0.0, 1, 1) for name in runs}

    patches: dict[str, Any] = {
        "stage_calls": stage_calls,
        "marginal_times": marginal_times,
        "architecture": lambda device: "sm_90",
        "chosen_launch": lambda work: find(work.case.key(), "sm_90", work.case.window),
        "check_chain": lambda name, work, call: call(0),
        "ProcessPoolExecutor": _Pool,
    }
    for name, stand_in in patches.items():
        monkeypatch.setattr(tune, name, stand_in)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    cpu = torch.device("cpu")
    args = tune.parse(["--tokens", "8", "--state-dtype", "fp16", "--batch", "16", "256"])
    cases = tune.cases_of(args)
    tune.compile_ahead(cases, 1, tune.STAGES, cpu)
    compiled = set(kernels)
    kernels.clear()
    for case in cases:
        tune.search(case, cpu, Effort.quick())
    assert compiled >= kernels and len(kernels) > 50
