# SPDX-License-Identifier: Apache-2.0
"""What the benchmark times, as kernels: each call finds cursors of its own, by row too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from graphrt.bench.cases import SHAPES, Case
from graphrt.bench.contender import convolve
from graphrt.bench.gate import GateError, check_advance, check_chain
from graphrt.bench.stages import (
    PAIR,
    advance_calls,
    chain_calls,
    chosen_launch,
    layer_stages,
    stage_calls,
)
from graphrt.bench.workload import Effort, Workload
from graphrt.bench.yardsticks.moves import moves

# In fp32: the interpreter cuts what it stores as bf16 and does not round.
CASE = Case(shape=SHAPES["tiny"], batch=2, activation_dtype=torch.float32)
EFFORT = replace(Effort.quick(), l2_times=0.1, calls=2, most_calls=2)


@pytest.fixture
def work() -> Workload:
    return Workload(CASE, torch.device("cpu"), EFFORT)


def test_what_runs_without_advance_finds_its_rows(work: Workload) -> None:
    chain, stages, pair = (
        chain_calls(work),
        stage_calls(work, layer_stages(chosen_launch(work))),
        stage_calls(work, PAIR),
    )
    check_chain("chain", work, lambda index: chain[index]())
    check_chain("stages", work, lambda index: stages[index]())

    def convolved(index: int) -> None:
        convolve(work, index)
        pair[index]()

    check_chain("pair", work, convolved)
    rows = work.calls[0].after.scratch(2, CASE.tokens).row_cursors
    rows.copy_(rows.flip(0))  # another order of the same lines
    check_chain("chain", work, lambda index: chain[index]())
    rows[:, 0] = rows[:, 0].flip(0)
    with pytest.raises(GateError):
        check_chain("chain", work, lambda index: chain[index]())


def test_a_launch_writes_its_rows_itself(work: Workload) -> None:
    whole, layers = chain_calls(work, advance=True), chain_calls(work)
    check_chain("launch", work, lambda index: whole[index]())
    for index, run in enumerate(layers):
        rows = work.calls[index].advancing.scratch(2, CASE.tokens).row_cursors
        assert rows.equal(work.calls[index].after.scratch(2, CASE.tokens).row_cursors)
        run()
    advance = advance_calls(work)
    check_advance(work, lambda index: advance[index]())


@pytest.mark.parametrize("state_dtype", [torch.float16, torch.float32], ids=["fp16", "fp32"])
def test_a_kernel_moves_what_torch_moves(state_dtype: torch.dtype) -> None:
    case = replace(CASE, state_dtype=state_dtype, history="all-flush")
    moved = moves(Workload(case, torch.device("cpu"), EFFORT), EFFORT)
    assert moved.check() == 0.0
    assert len(moved.settings["searched_us"]) == 4
