# SPDX-License-Identifier: Apache-2.0
"""Losses planted in compiled kernels: what they compile to names the cause. No GPU is needed.

The kernels are compiled for sm_90 as the chain would launch them; times are made up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from triton.compiler import CompiledKernel

from graphrt.bench.cases import SHAPES, Case
from graphrt.config import PdlLinks
from graphrt.kernels import tuning
from graphrt.kernels.ahead import Launch, chain_launches
from graphrt.kernels.tuning import ChainLaunch, StateUpdateLaunch
from graphrt.latency.access_widths import narrower
from graphrt.latency.compare import Comparison, compare
from graphrt.latency.facts import races_of, static_of
from graphrt.latency.report import as_json, sentences
from graphrt.latency.verdict import Verdict
from tests.helpers.recordings import STAGE, WHOLE, recording, samples

CASE = Case(shape=SHAPES["rank"], batch=8)


@cache
def chosen() -> ChainLaunch:
    """What no tuning table has, so that none changes it: a large tile in registers."""
    found = tuning.lookup(
        CASE.shape,
        CASE.batch,
        tokens=CASE.tokens,
        state_dtype=CASE.state_dtype,
        activation_dtype=CASE.activation_dtype,
        arch="sm_none",
    )
    return replace(found, state_update=StateUpdateLaunch(64))


@cache
def launches(launch: ChainLaunch) -> dict[str, Launch]:
    config = replace(CASE.config(CASE.batch, torch.device("cpu")), layers=1)
    return chain_launches(config, CASE.tokens, launch, PdlLinks())


@cache
def shipped() -> dict[str, CompiledKernel]:
    return {stage: launch.compile(90) for stage, launch in launches(chosen()).items()}


def found_of(changed: Mapping[str, Launch], loss: float, tuned: ChainLaunch) -> Comparison:
    """Compare the shipped kernels with some that were changed, and so much slower."""
    random = np.random.default_rng(0)
    kernels = [shipped(), {**shipped(), **{s: one.compile(90) for s, one in changed.items()}}]

    def facts(side: int, launch: ChainLaunch) -> dict[str, Any]:
        return {
            "static": static_of(kernels[side].values()),
            "races": races_of(kernels[side].values()),
            "tuning": launch.choice(),
        }

    def series(us: float) -> dict[Any, Any]:
        return {WHOLE: samples(random, 4.0 + us), STAGE: samples(random, us)}

    old = recording(series(6.0), facts=facts(0, chosen()))
    new = recording(series(6.0 * (1 + loss)), facts=facts(1, tuned), label="new", seed=1)
    return compare(old, new)


def shifted(argument: object) -> object:
    """Return a state that no longer begins where 16 bytes do."""
    if isinstance(argument, Tensor) and argument.dtype is torch.float16:
        return argument.new_empty(argument.numel() + 1)[1:].view(argument.shape)
    return argument


def test_a_narrower_load_is_named() -> None:
    launch = launches(chosen())["state_update"]
    changed = replace(launch, arguments=tuple(map(shifted, launch.arguments)))
    found = found_of({"state_update": changed}, 0.1, chosen())
    assert found.verdict is Verdict.SLOWER and not found.unsafe
    why = found.why["case"]
    assert why[0].startswith("stage: state_update +0.")
    narrow = r"kernel: _state_update_kernel: loads are narrower: were \d+ of 16 bytes.* of 2 bytes"
    assert re.match(narrow, why[1]), why[1]
    assert any("broken: before_wait LDG.E.LTC128B.128: was" in line for line in why)


def test_a_smaller_tile_is_named() -> None:
    small = replace(chosen(), state_update=replace(chosen().state_update, block_head_dim=16))
    found = found_of({"state_update": launches(small)["state_update"]}, 0.1, small)
    why = found.why["case"]
    assert why[0].startswith("stage: state_update +0.")
    assert why[1] == "tuning: state_update block_head_dim: was 64, is 16"
    assert any(line.startswith("kernel: _state_update_kernel: ") for line in why)


@pytest.mark.parametrize("stage", ["precompute", "state_update"])
def test_a_missing_wait_is_faster_and_unsafe(stage: str) -> None:
    launch = launches(chosen())[stage]
    hasty = replace(launch, keywords={**launch.keywords, "WAIT": False})
    found = found_of({stage: hasty}, -0.1, chosen())
    assert found.verdict is Verdict.FASTER
    assert any(line.startswith(f"race: {stage}: ") for line in found.why["case"])
    assert any(line.startswith(f"case: faster and unsafe: {stage}: ") for line in sentences(found))
    assert as_json(found)["unsafe"]["case"]
    # A race need not show in a run of the gate: it passes and the comparison does not.
    found.gates["case"] = "passed, largest error 1e-4"
    assert not found.passed


def test_a_missing_wait_is_unsafe_where_it_gains_nothing_too() -> None:
    launch = launches(chosen())["precompute"]
    hasty = replace(launch, keywords={**launch.keywords, "WAIT": False})
    found = found_of({"precompute": hasty}, 0.0, chosen())
    assert found.verdict is Verdict.SAME and not found.passed
    assert any(line.startswith("case: unsafe: precompute: ") for line in sentences(found))


def test_kernels_without_pdl_need_no_wait() -> None:
    none = PdlLinks(conv1d=False, precompute=False, state_update=False)
    config = replace(CASE.config(CASE.batch, torch.device("cpu")), layers=1)
    found = found_of(chain_launches(config, CASE.tokens, chosen(), none), 0.1, chosen())
    assert found.verdict is Verdict.SLOWER and not found.unsafe


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ({"LDG.E.128": 4}, {"LDG.E.128": 4}, []),
        ({"LDG.E.64": 4}, {"LDG.E.128": 2}, []),
        ({"LDG.E.128": 4}, {"LDG.E": 16}, ["loads are narrower: were 4 of 16 bytes, are 16 of 4"]),
        ({"STG.E": 4}, {"STG.E.U16": 8}, ["stores are narrower: were 4 of 4 bytes, are 8 of 2"]),
        ({"LDG.E.128": 4}, {}, []),
    ],
)
def test_widths(was: dict[str, int], now: dict[str, int], said: list[str]) -> None:
    expected = [f"{line} bytes" for line in said]
    assert narrower({"body": was}, {"body": now}) == expected
