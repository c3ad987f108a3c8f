# SPDX-License-Identifier: Apache-2.0
"""ChainStep: its static buffers, and what of them each layer is given."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from graphrt import ConfigError, LayerInputs, LayerWeights
from graphrt.capture.buffers import named_tensors
from graphrt.step import ChainBuffers, ChainStep
from tests.helpers.cases import BASE, Case
from tests.helpers.checks import check_same_bits
from tests.helpers.rows import BF16

CASE = replace(BASE, layers=3)
ACT = {"fp32": CASE, "bf16": replace(CASE, activation_dtype=BF16)}


def weights_of(case: Case) -> list[LayerWeights]:
    drawn = torch.Generator().manual_seed(0)
    return [case.weights(drawn) for _ in range(case.layers)]


def make(case: Case = CASE, gated: bool = True) -> ChainStep:
    return ChainStep(case.config("cpu"), weights_of(case), gated=gated)


class Chain:
    """Remembers what each layer was given, and writes the layer's number out."""

    def __init__(self) -> None:
        self.given: list[tuple[int, LayerInputs, LayerWeights, Tensor]] = []

    def layer(self, layer: int, inputs: LayerInputs, weights: LayerWeights, out: Tensor) -> None:
        self.given.append((layer, inputs, weights, out))
        out.fill_(layer + 1)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the step calls layer() alone, not {name}")


@pytest.mark.parametrize("case", ACT.values(), ids=ACT)
@pytest.mark.parametrize(("bucket", "tokens"), [(1, 1), (4, 3)])
def test_buffers_are_zeros_with_the_row_first(case: Case, bucket: int, tokens: int) -> None:
    buffers = make(case).buffers(bucket, tokens)
    shape = case.shape()
    expected = {
        "xbc": (bucket, 3, tokens, shape.conv_dim),
        "dt": (bucket, 3, tokens, shape.heads),
        "z": (bucket, 3, tokens, shape.heads, shape.head_dim),
        "out": (bucket, 3, tokens, shape.heads, shape.head_dim),
    }
    tensors = named_tensors(buffers)
    assert list(tensors) == list(expected)
    for name, dims in expected.items():
        zeros = torch.zeros(dims, dtype=case.activation_dtype)
        check_same_bits(tensors[name], zeros, name)
        assert tensors[name].device == case.config("cpu").device


@pytest.mark.usefixtures("poisoned_empty")
def test_no_buffer_is_left_uninitialised() -> None:
    for name, tensor in named_tensors(make().buffers(2, 3)).items():
        assert not tensor.any(), name


def test_each_graph_has_buffers_of_its_own() -> None:
    step = make()
    first, second = (named_tensors(step.buffers(2, 3)) for _ in range(2))
    places = [tensor.data_ptr() for tensor in (*first.values(), *second.values())]
    assert len(set(places)) == 8


def test_without_a_gate_there_is_no_z() -> None:
    step = make(gated=False)
    buffers = step.buffers(2, 3)
    assert buffers.z is None
    assert list(named_tensors(buffers)) == ["xbc", "dt", "out"]
    chain = Chain()
    step(chain, buffers)  # type: ignore[arg-type]
    assert [inputs.z for _, inputs, _, _ in chain.given] == [None] * 3


def test_the_fields_of_buffers_cannot_be_replaced() -> None:
    buffers = make().buffers(1, 1)
    with pytest.raises(FrozenInstanceError):
        buffers.out = buffers.xbc  # type: ignore[misc]


def test_each_layer_is_given_its_part_in_order() -> None:
    weights = weights_of(CASE)
    step = ChainStep(CASE.config("cpu"), weights, gated=True)
    buffers: ChainBuffers = step.buffers(4, 3)
    for tensor in (buffers.xbc, buffers.dt, buffers.z):
        tensor.normal_()
    before = {name: t.clone() for name, t in named_tensors(buffers).items() if name != "out"}
    chain = Chain()
    step(chain, buffers)  # type: ignore[arg-type]
    assert [layer for layer, *_ in chain.given] == [0, 1, 2]
    for layer, inputs, given, out in chain.given:
        assert given is weights[layer]
        for name in ("xbc", "dt", "z"):
            part, whole = getattr(inputs, name), getattr(buffers, name)
            check_same_bits(part, whole[:, layer], name)
            assert part.data_ptr() == whole[:, layer].data_ptr(), "a view, not a copy"
        assert out.data_ptr() == buffers.out[:, layer].data_ptr()
        assert buffers.out[:, layer].eq(layer + 1).all()
    for name, tensor in before.items():
        check_same_bits(getattr(buffers, name), tensor, name)


def test_the_weights_are_those_of_the_construction() -> None:
    weights = weights_of(CASE)
    step = ChainStep(CASE.config("cpu"), weights)
    kept = list(weights)
    weights.clear()
    chain = Chain()
    step(chain, step.buffers(1, 1))  # type: ignore[arg-type]
    assert [id(given) for _, _, given, _ in chain.given] == [id(one) for one in kept]


@pytest.mark.parametrize("count", [0, 2, 4])
def test_one_weights_a_layer_is_required(count: int) -> None:
    weights = (weights_of(CASE) * 2)[:count]
    said = rf"^weights={count} layers: must be one LayerWeights per layer \(3\); pass one for each$"
    with pytest.raises(ConfigError, match=said):
        ChainStep(CASE.config("cpu"), weights)
