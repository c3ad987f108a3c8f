# SPDX-License-Identifier: Apache-2.0
"""How the bench launches what it times: behind an ordinary kernel, the first stage normally."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from graphrt.bench import stages
from graphrt.bench.cases import SHAPES, Case
from graphrt.bench.stages import PAIR, chain_calls, chosen_launch, stage_calls
from graphrt.bench.workload import Effort, Workload
from graphrt.config import PdlLinks
from graphrt.kernels import chain
from graphrt.kernels.ahead import Launch, recorded
from graphrt.kernels.tuning import FusedLaunch

CASE = Case(shape=SHAPES["tiny"], batch=2)
EFFORT = replace(Effort.quick(), calls=1, most_calls=1)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Launch]]:
    for module in (stages, chain):
        monkeypatch.setattr(module, "usable_links", lambda links, device: links)
        monkeypatch.setattr(module, "runs_kernels", lambda device: True)
    with recorded() as kept:
        yield kept


def linked(launches: dict[str, Launch], run: Callable[[], object]) -> dict[str, bool]:
    """Return the stages that ``run`` launches, and which are so programmatically."""
    launches.clear()
    run()
    return {stage: launch.keywords.get("launch_pdl", False) for stage, launch in launches.items()}


@pytest.mark.parametrize("pdl", [True, False])
@pytest.mark.parametrize(
    "timed", [("conv1d",), PAIR, ("state_update",), ("conv1d", *PAIR), ("fused",), ("single",)]
)
def test_what_is_timed_is_launched_normally_and_what_follows_by_its_link(
    timed: tuple[stages.Stage, ...], pdl: bool, launches: dict[str, Launch]
) -> None:
    work = Workload(replace(CASE, pdl=pdl), torch.device("cpu"), EFFORT)
    one = FusedLaunch(16)
    launch = replace(chosen_launch(work), fused=one, single=one)
    (call,) = stage_calls(work, timed, launch)
    first, *others = timed
    assert linked(launches, call) == {first: False, **dict.fromkeys(others, pdl)}
    waits = {stage: kept.keywords["WAIT"] for stage, kept in launches.items()}
    assert waits == {first: False, **dict.fromkeys(others, pdl)}


def test_a_layer_is_launched_normally_but_behind_its_advance(launches: dict[str, Launch]) -> None:
    work = Workload(CASE, torch.device("cpu"), EFFORT)
    (layer,), (whole,) = chain_calls(work), chain_calls(work, advance=True)
    alone, behind = linked(launches, layer), linked(launches, whole)
    first = next(iter(alone))
    assert alone[first] is False and behind == {"advance": False, **alone, first: True}


def test_only_the_link_into_the_first_stage_is_off() -> None:
    every = PdlLinks()
    assert stages.behind_an_ordinary_kernel(every, "fused") == replace(every, precompute=False)
    assert stages.behind_an_ordinary_kernel(every, "single") == replace(every, conv1d=False)
