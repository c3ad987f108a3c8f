# SPDX-License-Identifier: Apache-2.0
"""The cursors by row that the advance kernel leaves, and that the stages read nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from graphrt.capture.inspect import poison
from graphrt.kernels import chain
from graphrt.kernels.advance import advance
from graphrt.kernels.chain import BoundChain
from graphrt.kernels.tensors import LayerInputs
from graphrt.poisoned import runtime_cases
from graphrt.runtime import DecodeRuntime
from graphrt.step import ChainStep
from tests.helpers.cases import Case
from tests.helpers.checks import Mismatch, check_same_bits
from tests.helpers.contents import WILD
from tests.helpers.drive import ChainDriver
from tests.helpers.mirror import MirroredDriver
from tests.helpers.row_cursors import COUNTS, advanced, advanced_many
from tests.helpers.rows import FP16, TINY

CASE = Case(
    heads=1,
    groups=1,
    tokens=2,
    launch_tokens=(2,),
    window=3,
    slots=3,
    buckets=(1, 2, 3),
    state_dtype=FP16,
    rounding="stochastic",
)


def test_the_kernel_leaves_every_rows_cursors() -> None:
    for launch, (got, expected) in enumerate(advanced("cpu")):
        check_same_bits(got, expected, f"row_cursors of launch {launch}")


@pytest.mark.parametrize("count", COUNTS)
def test_a_launch_of_many_rows(count: int) -> None:
    got, expected = advanced_many("cpu", count)
    check_same_bits(got, expected, "row_cursors")


@pytest.mark.parametrize("column", range(8))
def test_a_kernel_that_leaves_out_a_column_is_refused(
    column: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaving_out(slot_ids: Tensor, cursors: Any, rows: Tensor, **sizes: Any) -> object:
        before = rows[:, column].clone()
        compiled = advance(slot_ids, cursors, rows, **sizes)
        rows[:, column] = before
        return compiled

    monkeypatch.setattr(chain.advance_kernels, "advance", leaving_out)
    with pytest.raises(Mismatch, match=r"^row_cursors, kernel and twin"):
        MirroredDriver(TINY).run(1)


class ByRowOnly(ChainDriver):
    """While a layer runs, nothing of the cursors by slot is there to be read."""

    def run_layer(self, chain: BoundChain, layer: int, inputs: LayerInputs, out: Tensor) -> None:
        cursors = self.cache.cursors
        hidden = [
            chain.slot_ids,
            *(cursors.held, cursors.ring_start, cursors.flushed, cursors.conv_pos),
            cursors.rand_seed,
        ]
        saved = [tensor.clone() for tensor in hidden]
        for tensor in hidden:
            tensor.fill_(WILD)
        super().run_layer(chain, layer, inputs, out)
        for tensor, was in zip(hidden, saved, strict=True):
            tensor.copy_(was)


def test_the_stages_read_the_cursors_by_row_and_not_by_slot() -> None:
    report = ByRowOnly(CASE).run(30)
    assert report.flushes >= 5 and report.padding_rows >= 5 and report.recycled


def _lived_in(step: ChainStep) -> DecodeRuntime:
    runtime = DecodeRuntime(CASE.config("cpu"))
    runtime.capture(step)
    slots = [runtime.admit() for _ in range(3)]
    for captured in runtime.captured:
        captured.value.buffers.xbc.normal_()
        captured.value.buffers.dt.normal_()
    for _ in range(2):
        runtime.launch(slots)
        runtime.accept(dict.fromkeys(slots, 2))
    return runtime


def _step() -> ChainStep:
    return ChainStep(CASE.config("cpu"), [CASE.weights(torch.Generator().manual_seed(0))])


def test_no_launch_reads_rows_that_an_earlier_one_left() -> None:
    step = _step()
    with _lived_in(step) as runtime:
        cases = runtime_cases(runtime, step)
        assert all("row_cursors" in case.poisoned for case in cases)
        report = poison.poison_run(cases)
    assert report.passed, report.failures


def test_an_advance_that_forgets_a_row_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetting(slot_ids: Tensor, cursors: Any, rows: Tensor, **sizes: Any) -> object:
        before = rows[0].clone()
        compiled = advance(slot_ids, cursors, rows, **sizes)
        rows[0] = before
        return compiled

    # The highest integer is a slot to the kernels, and what lies there is no memory.
    monkeypatch.setattr(poison, "POISONS", ("nan",))
    step = _step()
    with _lived_in(step) as runtime:
        monkeypatch.setattr(chain.advance_kernels, "advance", forgetting)
        cases = runtime_cases(runtime, step)
        report = poison.poison_run(cases[:1])
    assert any("it reads row_cursors" in failure for failure in report.failures), report.failures
