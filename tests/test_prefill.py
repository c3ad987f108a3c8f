# SPDX-License-Identifier: Apache-2.0
"""Prefill against the float64 oracle, in segments, through the chain, and backwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from graphrt import ChainShape, ChainStep, DecodeRuntime, LayerInputs, LayerWeights, Prefilled
from graphrt.errors import ConfigError
from graphrt.kernels.prefill import PrefillResult, prefill_layer
from tests.helpers.cases import BASE, Case, one_factor
from tests.helpers.checks import TWIN_FP32, Mismatch, bound, check_rows, check_same_bits
from tests.helpers.oracle import ChainOracle, Perturbation

BATCH = 2
LENGTH = 70

CASES = one_factor(
    base={},
    groups_1={"groups": 1},
    groups_4={"groups": 4},
    heads_per_group_3={"heads": 6},
    head_dim_80={"head_dim": 80},
    state_dim_48={"state_dim": 48},
    conv_width_2={"conv_width": 2},
    conv_width_3={"conv_width": 3},
    no_D={"has_D": False},
    no_z={"has_z": False},
    no_dt_bias={"has_dt_bias": False},
    no_conv_bias={"has_conv_bias": False},
    in_proj_slices={"layout": "in_proj"},
    transposed={"layout": "transposed"},
    dt_large={"dt_range": "large"},
    dt_very_negative={"dt_range": "very_negative"},
    dt_limits={"dt_min": 0.3, "dt_max": 0.8},
    bf16={"activation_dtype": torch.bfloat16},
    fp16={"activation_dtype": torch.float16},
)


def make(case: Case, length: int) -> tuple[LayerInputs, LayerWeights, ChainOracle]:
    generator = torch.Generator().manual_seed(0)
    weights = case.weights(generator)
    inputs = case.inputs([True] * BATCH, length, generator)
    return inputs, weights, ChainOracle(case.shape(), weights, case.activation_dtype)


def check(result: PrefillResult, inputs: LayerInputs, oracle: ChainOracle, case: Case) -> None:
    """Require output, state and conv tail to be the oracle's, which continues from where it is."""
    rows, length = range(BATCH), inputs.xbc.shape[1]
    for row in rows:
        if row not in oracle.state:
            oracle.admit(row)
    limit = bound(case.activation_dtype, kernels=False)
    check_rows(result.y, oracle.launch(list(rows), inputs), limit, "y")
    oracle.commit([length] * BATCH)
    state = torch.stack([oracle.state[row] for row in rows])
    check_rows(result.state.transpose(1, 2), state.transpose(1, 2), limit, "state")
    tail = torch.stack([oracle.conv_tail[row] for row in rows]).to(result.conv_tail.dtype)
    check_same_bits(result.conv_tail, tail, "conv_tail")
    assert result.y.dtype == result.conv_tail.dtype == case.activation_dtype
    assert result.state.dtype == torch.float32


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_matches_the_oracle(case: Case) -> None:
    inputs, weights, oracle = make(case, LENGTH)
    check(prefill_layer(inputs, weights, case.shape(), chunk_tokens=16), inputs, oracle, case)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 15, 16, 17, 64, 127, 128, 129, 257])
def test_any_length_in_chunks_and_blocks(length: int) -> None:
    inputs, weights, oracle = make(BASE, length)
    # 4 tokens a chunk and 32 chunks a block: lengths on both sides of each of their ends.
    check(prefill_layer(inputs, weights, BASE.shape(), chunk_tokens=4), inputs, oracle, BASE)


@pytest.mark.parametrize("chunk_tokens", [1, 7, 64, 1000])
def test_chunk_size_does_not_matter(chunk_tokens: int) -> None:
    inputs, weights, oracle = make(BASE, LENGTH)
    check(prefill_layer(inputs, weights, BASE.shape(), chunk_tokens), inputs, oracle, BASE)


@pytest.mark.parametrize("cut", [1, 2, 33])
def test_goes_on_from_an_earlier_result(cut: int) -> None:
    inputs, weights, oracle = make(BASE, LENGTH)
    result = None
    for part in (slice(0, cut), slice(cut, LENGTH)):
        segment = LayerInputs(inputs.xbc[:, part], inputs.dt[:, part], inputs.z[:, part])
        result = prefill_layer(segment, weights, BASE.shape(), chunk_tokens=16, initial=result)
        check(result, segment, oracle, BASE)


@pytest.mark.parametrize("perturbation", Perturbation)
def test_a_perturbed_reference_is_refused(perturbation: Perturbation) -> None:
    inputs, weights, _ = make(BASE, LENGTH)
    oracle = ChainOracle(BASE.shape(), weights, BASE.activation_dtype, perturbation, 1)
    result = None
    with pytest.raises(Mismatch):
        for part in (slice(0, 30), slice(30, LENGTH)):
            segment = LayerInputs(inputs.xbc[:, part], inputs.dt[:, part], inputs.z[:, part])
            result = prefill_layer(segment, weights, BASE.shape(), chunk_tokens=16, initial=result)
            check(result, segment, oracle, BASE)
    assert oracle.perturbed


@pytest.mark.parametrize("prompt", [1, 2, 3, 37])
def test_decoding_continues_from_it(prompt: int) -> None:
    """What prefill leaves and the chain goes on from is what prefill makes of the whole text."""
    case = replace(BASE, layers=1)
    inputs, weights, _ = make(case, LENGTH)
    whole = prefill_layer(inputs, weights, case.shape())
    start = LayerInputs(*(part[:1, :prompt] for part in (inputs.xbc, inputs.dt, inputs.z)))
    left = prefill_layer(start, weights, case.shape())
    with DecodeRuntime(case.config("cpu")) as runtime:
        runtime.capture(ChainStep(runtime.config, [weights], gated=True))
        slot = runtime.admit(Prefilled(state=left.state, conv_tail=left.conv_tail))
        for at in range(prompt, LENGTH - case.tokens + 1, case.tokens):
            part = slice(at, at + case.tokens)
            out = runtime.launch(
                [slot],
                **{name: getattr(inputs, name)[:1, None, part] for name in ("xbc", "dt", "z")},
            ).out[:1, 0]
            check_rows(out, whole.y[:1, part].double(), TWIN_FP32, f"y at token {at}")
            runtime.accept({slot: case.tokens})


def test_gradients_are_those_of_the_recurrence() -> None:
    inputs, weights, _ = make(replace(BASE, conv_width=2), 11)
    shape = replace(BASE, conv_width=2).shape()
    leaves = [
        tensor.double().requires_grad_()
        for tensor in (inputs.xbc, inputs.dt, weights.conv_weight, weights.A, weights.D)
    ]

    def loss(y: Tensor, state: Tensor) -> Tensor:
        return y.double().square().sum() + state.double().sum()

    got = torch.autograd.grad(loss(*_chunked(leaves, weights, shape)), leaves)
    expected = torch.autograd.grad(loss(*_recurrence(leaves, weights, shape)), leaves)
    for mine, reference in zip(got, expected, strict=True):
        assert (mine - reference).norm() <= TWIN_FP32 * reference.norm()


def _chunked(
    leaves: list[Tensor], weights: LayerWeights, shape: ChainShape
) -> tuple[Tensor, Tensor]:
    xbc, dt, conv_weight, a, d = (leaf.float() for leaf in leaves)
    rest = replace(weights, conv_weight=conv_weight, A=a, D=d)
    result = prefill_layer(LayerInputs(xbc, dt), rest, shape, chunk_tokens=4)
    return result.y, result.state


def _recurrence(
    leaves: list[Tensor], weights: LayerWeights, shape: ChainShape
) -> tuple[Tensor, Tensor]:
    """The recurrence of docs/design.md, differentiable, without z."""
    xbc, dt_raw, taps, a, d = leaves
    seen = torch.cat([torch.zeros_like(xbc[:, :1]), xbc], 1)
    conv = seen[:, :-1] * taps[:, 0] + seen[:, 1:] * taps[:, 1] + weights.conv_bias
    part = shape.groups * shape.state_dim
    x, b, c = torch.nn.functional.silu(conv).split([shape.inner_dim, part, part], -1)
    x = x.unflatten(-1, (shape.heads, shape.head_dim))
    b, c = (
        each.unflatten(-1, (shape.groups, -1)).repeat_interleave(shape.heads_per_group, 2)
        for each in (b, c)
    )
    dt = torch.nn.functional.softplus(dt_raw + weights.dt_bias)
    state = xbc.new_zeros(BATCH, shape.heads, shape.head_dim, shape.state_dim)
    outputs = []
    for t in range(xbc.shape[1]):
        state = torch.exp(a * dt[:, t])[..., None, None] * state
        state = state + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None]
        outputs.append((state * c[:, t, :, None]).sum(-1) + d[:, None] * x[:, t])
    return torch.stack(outputs, 1), state


def test_gradients_stay_finite_where_decays_underflow() -> None:
    inputs, weights, _ = make(BASE, LENGTH)
    dt = torch.full_like(inputs.dt, 500.0).requires_grad_()
    xbc = inputs.xbc.clone().requires_grad_()
    result = prefill_layer(LayerInputs(xbc, dt), weights, BASE.shape(), chunk_tokens=16)
    (result.y.square().mean() + result.state.sum()).backward()
    assert result.y.isfinite().all()
    assert dt.grad.isfinite().all() and xbc.grad.isfinite().all()


def test_inputs_are_not_written() -> None:
    inputs, weights, _ = make(BASE, LENGTH)
    before = inputs.xbc.clone(), inputs.dt.clone()
    prefill_layer(inputs, weights, BASE.shape())
    assert torch.equal(inputs.xbc, before[0]) and torch.equal(inputs.dt, before[1])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"xbc": torch.zeros(1, 3, 5)}, "xbc.shape"),
        ({"dt": torch.zeros(BATCH, 2, 4)}, "dt.shape"),
        ({"z": torch.zeros(BATCH, 3, 4, 5)}, "z.shape"),
    ],
)
def test_refuses_what_does_not_fit(change: dict[str, Tensor], what: str) -> None:
    inputs, weights, _ = make(BASE, 3)
    with pytest.raises(ConfigError, match=what):
        prefill_layer(replace(inputs, **change), weights, BASE.shape())


def test_refuses_an_empty_prompt_and_an_empty_chunk() -> None:
    inputs, weights, _ = make(BASE, 3)
    empty = LayerInputs(inputs.xbc[:, :0], inputs.dt[:, :0])
    with pytest.raises(ConfigError, match="prompt tokens=0"):
        prefill_layer(empty, weights, BASE.shape())
    with pytest.raises(ConfigError, match="chunk_tokens=0"):
        prefill_layer(inputs, weights, BASE.shape(), chunk_tokens=0)
