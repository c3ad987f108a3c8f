# SPDX-License-Identifier: Apache-2.0
"""The poison run over a runtime: the shipped chain passes, a step that reads padding does not."""

from __future__ import annotations

from typing import Any

import torch

from graphrt.capture.inspect.poison import poison_run
from graphrt.config import ChainShape, RuntimeConfig
from graphrt.kernels.tensors import LayerWeights
from graphrt.poisoned import runtime_cases
from graphrt.runtime import DecodeRuntime
from graphrt.step import ChainStep

SHAPE = ChainShape(heads=2, head_dim=16, state_dim=16)


def config() -> RuntimeConfig:
    return RuntimeConfig(
        shape=SHAPE,
        layers=2,
        slots=4,
        tokens=3,
        window=5,
        buckets=(1, 2, 4),
        launch_tokens=(1, 3),
        state_dtype=torch.float16,
        rounding="stochastic",
        device=torch.device("cpu"),
    )


def weights() -> list[LayerWeights]:
    return [
        LayerWeights(
            conv_weight=torch.randn(SHAPE.conv_dim, SHAPE.conv_width).bfloat16(),
            A=-torch.rand(SHAPE.heads) - 0.1,
        )
        for _ in range(2)
    ]


def lived_in(step: ChainStep) -> DecodeRuntime:
    """Return a runtime whose slots all hold history."""
    runtime = DecodeRuntime(config())
    runtime.capture(step)
    slots = [runtime.admit() for _ in range(4)]
    for captured in runtime.captured:
        buffers = captured.value.buffers
        buffers.xbc.normal_()
        buffers.dt.normal_()
    for _ in range(3):
        runtime.launch(slots)
        runtime.accept(dict.fromkeys(slots, 2))
    return runtime


def test_the_chain_reads_only_what_it_declares() -> None:
    step = ChainStep(config(), weights())
    with lived_in(step) as runtime:
        cases = runtime_cases(runtime, step)
        assert next(case.name for case in cases) == "bucket 4, T 3"
        report = poison_run(cases)
    assert report.passed, report.failures
    assert report.launches == len(cases) * 5


class Leaking(ChainStep):
    def __call__(self, chain: Any, buffers: Any) -> None:
        super().__call__(chain, buffers)
        buffers.out[0] += buffers.xbc[-1].sum() * 0


class Scribbling(ChainStep):
    def __call__(self, chain: Any, buffers: Any) -> None:
        super().__call__(chain, buffers)
        chain._cache.state[:, -1] = 0


def test_a_step_that_reads_a_row_of_padding_is_named_with_what_it_reads() -> None:
    step = Leaking(config(), weights())
    with lived_in(step) as runtime:
        report = poison_run(runtime_cases(runtime, step))
    assert any(
        failure == "bucket 4, T 3: out differ with nan in the rest: it reads padding of xbc"
        for failure in report.failures
    )


def test_a_step_that_writes_to_another_slot_is_named() -> None:
    step = Scribbling(config(), weights())
    with lived_in(step) as runtime:
        report = poison_run(runtime_cases(runtime, step))
    expected = "bucket 2, T 3: wrote to other slots of state, which it must leave alone"
    assert expected in report.failures
