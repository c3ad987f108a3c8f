# SPDX-License-Identifier: Apache-2.0
"""The chain under test: whole, as users launch it, and stage by stage with any configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from graphrt.bench.cases import Case
from graphrt.bench.workload import Call, Workload
from graphrt.config import PdlLinks
from graphrt.kernels import reference
from graphrt.kernels.chain import BoundChain, runs_kernels
from graphrt.kernels.conv1d import conv1d
from graphrt.kernels.fused import fused
from graphrt.kernels.links import LINK_INTO
from graphrt.kernels.pdl import usable_links
from graphrt.kernels.precompute import precompute
from graphrt.kernels.single import single
from graphrt.kernels.state_update import state_update
from graphrt.kernels.tuning import ChainLaunch, architecture, find

Stage = Literal["conv1d", "precompute", "state_update", "fused", "single"]
PAIR: tuple[Stage, ...] = ("precompute", "state_update")


def after_conv1d(launch: ChainLaunch) -> tuple[Stage, ...]:
    """Return the stages that follow conv1d, where it is one: the pair, or one instead of it."""
    return PAIR if launch.fused is None else ("fused",)


def layer_stages(launch: ChainLaunch) -> tuple[Stage, ...]:
    """Return the stages of a layer."""
    return ("conv1d", *after_conv1d(launch)) if launch.single is None else ("single",)


LONGEST: tuple[Stage, ...] = ("state_update", "fused", "single")
"""The last stages of a layer, which take longest where a launch is not short."""


def longest_stage(case: Case, device: torch.device) -> Stage:
    """Return which of `LONGEST` the chain runs."""
    return layer_stages(find(case.key(), architecture(device), case.window))[-1]


def parts_of(launch: ChainLaunch) -> dict[str, tuple[Stage, ...]]:
    """Return what is timed of the chain besides the whole, by name.

    conv1d, and the two kernels of the pair by themselves, even where the chain runs none of them;
    ``pair`` is what it runs behind conv1d, or would.
    """
    return {
        "conv1d": ("conv1d",),
        "precompute": ("precompute",),
        "state_update": ("state_update",),
        "pair": after_conv1d(launch),
    }


def chosen_launch(work: Workload) -> ChainLaunch:
    """Return the configuration that the chain looks up for this workload."""
    return find(work.case.key(), architecture(work.device), work.case.window)


def behind_an_ordinary_kernel(links: PdlLinks, first: Stage) -> PdlLinks:
    """Return ``links`` without the one into ``first``, which is launched normally then.

    What is timed comes behind a kernel that signals nothing, as a projection does: a single kernel
    that is launched as its dependent takes half a microsecond longer (`yardsticks.empty`).
    """
    without: dict[str, bool] = {LINK_INTO[first]: False}
    return replace(links, **without)


def stage_calls(
    work: Workload,
    stages: Sequence[Stage],
    launch: ChainLaunch | None = None,
    links: PdlLinks | None = None,
    calls: Sequence[Call] | None = None,
) -> list[Callable[[], object]]:
    """Return one callable a call that runs ``stages`` of one layer with the given configuration.

    The first stage is launched normally, the others by ``links``, by default the case's. calls: by
    default all of the workload's.
    """
    launch = launch or chosen_launch(work)
    links = behind_an_ordinary_kernel(links or work.case.links, stages[0])
    links = usable_links(links, work.device)
    calls = work.calls if calls is None else calls
    return [_stages(work, call, tuple(stages), launch, links) for call in calls]


def chain_calls(work: Workload, *, advance: bool = False) -> list[Callable[[], object]]:
    """Return one callable a call that runs the chain of one layer, after advance if asked for.

    The first kernel is launched normally, advance or the layer's.
    """
    return [_chain(work, call, advance) for call in work.calls]


def advance_calls(work: Workload) -> list[Callable[[], object]]:
    """Return one callable a call that runs advance alone; `Workload.restore` before each round."""
    tokens = work.case.tokens
    return [BoundChain(call.advancing, call.slot_ids, tokens).advance for call in work.calls]


def _chain(work: Workload, call: Call, advance: bool) -> Callable[[], object]:
    cache = call.advancing if advance else call.after
    links = work.case.links if advance else behind_an_ordinary_kernel(work.case.links, "conv1d")

    def run() -> None:
        # A first layer is what is timed.
        chain = BoundChain(cache, call.slot_ids, work.case.tokens, links)
        if advance:
            chain.advance()
        chain.layer(0, work.inputs, work.weights, work.out)

    return run


def _stages(
    work: Workload, call: Call, stages: tuple[Stage, ...], launch: ChainLaunch, links: PdlLinks
) -> Callable[[], object]:
    case, config = work.case, work.config
    shape, window = case.shape, case.window
    stochastic = config.rounding == "stochastic"
    scratch = call.after.scratch(case.batch, case.tokens)
    layer = call.after.layer(0)
    given = (work.inputs, work.weights, layer, scratch)
    whole = (*given, work.out)
    sizes: dict[str, Any] = {"shape": shape, "window": window, "links": links}
    twin = (work.inputs, work.weights, layer, call.after.cursors, call.slot_ids, scratch)

    def kernels() -> None:
        if "conv1d" in stages:
            conv1d(*given, links=links, launch=launch.conv1d)
        if "precompute" in stages:
            precompute(*given, **sizes, launch=launch.precompute)
        if "state_update" in stages:
            state_update(*whole, **sizes, stochastic=stochastic, launch=launch.state_update)
        if "fused" in stages and launch.fused is not None:
            fused(*whole, **sizes, stochastic=stochastic, launch=launch.fused)
        if "single" in stages and launch.single is not None:
            single(*whole, **sizes, stochastic=stochastic, behind=False, launch=launch.single)

    def twins() -> None:
        ran = set(stages)
        if ran & {"conv1d", "single"}:
            reference.conv1d_reference(*twin)
        if ran & {"precompute", "fused", "single"}:
            reference.precompute_reference(*twin, shape=shape, window=window)
        if ran & {"state_update", "fused", "single"}:
            reference.state_update_reference(
                *twin, work.out, shape=shape, window=window, stochastic=stochastic
            )

    return kernels if runs_kernels(work.device) else twins
