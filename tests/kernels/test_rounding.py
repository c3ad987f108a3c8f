# SPDX-License-Identifier: Apache-2.0
"""Stochastic rounding: the words are Philox's, the rounding is unbiased, the draws are fresh."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from graphrt.kernels.rounding import (
    philox_words,
    round_state_reference,
    round_stochastic_reference,
    state_words,
)
from tests.helpers.cases import BASE
from tests.helpers.checks import check_same_bits, spacing
from tests.helpers.philox import KNOWN_ANSWERS, check_state_words, philox4x32, words_of
from tests.helpers.rows import BF16, FP16
from tests.helpers.stochastic import check_draws

ELEMENTS = 1 << 21
DTYPES = pytest.mark.parametrize("dtype", [BF16, FP16], ids=["bf16", "fp16"])


def fresh_words(count: int, seed: int = 7) -> Tensor:
    return state_words(torch.tensor(seed), torch.tensor(0), 1, 1, count).flatten()


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_the_helper_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]
) -> None:
    assert philox4x32(counter, key) == words


def test_counter_and_key_of_zeros_give_the_known_answer() -> None:
    zero = torch.zeros(1, dtype=torch.int64)
    assert tuple(int(w) for w in philox_words(zero, zero, zero)) == KNOWN_ANSWERS[0][2]


def test_words_are_philox_of_seed_octet_and_layer() -> None:
    rng = random.Random(0)
    at = [(rng.getrandbits(63), rng.getrandbits(22), rng.getrandbits(8)) for _ in range(200)]
    at += [(2**63 - 1, 2**32 - 1, 2**31 - 1), (2**32, 1, 0), (2**32 - 1, 0, 1)]
    seed, octet, layer = (torch.tensor(column) for column in zip(*at, strict=True))
    got = torch.stack(philox_words(seed, octet, layer), dim=1)
    assert [tuple(row) for row in got.tolist()] == [words_of(*each) for each in at]


@pytest.mark.parametrize("state_dim", [16, 18])
def test_eight_elements_along_n_share_an_octet(state_dim: int) -> None:
    seeds, layers = torch.tensor([3, 2**40 + 5]), torch.tensor([0, 2])
    words = state_words(seeds, layers, 2, 3, state_dim)
    assert words.shape == (2, 2, 3, state_dim)
    check_state_words(words[0], 3, 0)
    check_state_words(words[1], 2**40 + 5, 2)


def check_unbiased(value: Tensor, dtype: torch.dtype) -> None:
    """Require the mean of (rounded - value), in spacings, within four standard errors of zero."""
    rounded = round_stochastic_reference(value, fresh_words(len(value)), dtype).double()
    residual = (rounded - value.double()) / spacing(value.double(), dtype)
    assert residual.abs().max() < 1
    error = residual.std() / len(value) ** 0.5
    assert error > 0, "nothing was rounded"
    assert residual.mean().abs() <= 4 * error, f"{residual.mean() / error:.1f} standard errors"
    away = residual * value.double().sign()  # a bias towards zero cancels between the signs
    assert away.mean().abs() <= 4 * error, f"{away.mean() / error:.1f} standard errors"


@DTYPES
def test_unbiased_over_random_values(dtype: torch.dtype) -> None:
    check_unbiased(torch.randn(ELEMENTS), dtype)


@DTYPES
@pytest.mark.parametrize("fraction", [1 / 64, 0.25, 0.4, 0.5, 0.9])
@pytest.mark.parametrize("sign", [1, -1])
def test_unbiased_at_one_value(dtype: torch.dtype, fraction: float, sign: int) -> None:
    """Rounding to nearest is unbiased over random values too, but not at any one of these."""
    value = sign * 1.5 * (1 + fraction * torch.finfo(dtype).eps / 1.5)
    check_unbiased(torch.full((ELEMENTS,), value), dtype)


@pytest.mark.parametrize("scale", [2.0**-15, 2.0**-18, 2.0**-23, 2.0**-25])
def test_unbiased_over_fp16_subnormals(scale: float) -> None:
    value = scale * (2 * torch.rand(ELEMENTS) - 1)
    assert value.abs().max() < torch.finfo(FP16).smallest_normal
    check_unbiased(value, FP16)


def test_unbiased_across_fp16s_smallest_normal() -> None:
    smallest = torch.finfo(FP16).smallest_normal
    check_unbiased(smallest * (1 + 0.01 * (2 * torch.rand(ELEMENTS) - 1)), FP16)


@DTYPES
def test_only_the_two_neighbours_are_chosen(dtype: torch.dtype) -> None:
    exponent = torch.empty(1 << 18).uniform_(-30, 12)
    value = torch.randn(1 << 18) * torch.exp2(exponent)
    true = value.double()
    step = spacing(true, dtype)
    below, above = (true / step).floor() * step, (true / step).ceil() * step
    got = round_stochastic_reference(value, fresh_words(len(value)), dtype).double()
    assert ((got == below) | (got == above)).all()
    inexact = below != above
    assert 0.4 < (got == above)[inexact].double().mean() < 0.6


@DTYPES
def test_what_the_dtype_holds_is_unchanged(dtype: torch.dtype) -> None:
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    every = bits.view(dtype)
    every = every[~every.isnan()]
    words = fresh_words(len(every))
    for each in (words, torch.zeros_like(words), torch.full_like(words, 0xFFFFFFFF)):
        check_same_bits(round_stochastic_reference(every.float(), each, dtype), every, "rounded")


@DTYPES
def test_nan_stays_nan_and_infinities_stay_themselves(dtype: torch.dtype) -> None:
    nan = torch.tensor([0x7FC00000, 0x7F800001, 0x7FFFFFFF, -1, -0x00400000, -0x007FFFFF])
    nan = nan.to(torch.int32).view(torch.float32)
    infinite = torch.tensor([torch.inf, -torch.inf])
    for word in (0, 0x1FFF, 0xFFFF, 0xFFFFFFFF):
        words = torch.full_like(nan, word, dtype=torch.int64)
        assert round_stochastic_reference(nan, words, dtype).isnan().all()
        got = round_stochastic_reference(infinite, words[:2], dtype)
        assert got.tolist() == infinite.tolist()


def test_above_the_largest_fp16_the_neighbours_are_it_and_infinity() -> None:
    value = torch.full((1 << 16,), 65519.0)
    got = round_stochastic_reference(value, fresh_words(len(value)), FP16)
    assert set(got.tolist()) == {65504.0, torch.inf}


@DTYPES
def test_admission_rounds_each_layer_by_its_own_draws(dtype: torch.dtype) -> None:
    state = torch.randn(1, 2, 16, 18).expand(3, -1, -1, -1).clone()
    rounded = round_state_reference(state, dtype, seed=5)
    again = round_state_reference(state, dtype, seed=5)
    check_same_bits(again, rounded, "the same seed")
    assert (rounded[0] != rounded[1]).any() and (rounded[1] != rounded[2]).any()
    for layer in range(3):
        words = state_words(torch.tensor(5), torch.tensor(layer), 2, 16, 18)
        expected = round_stochastic_reference(state[layer], words, dtype)
        check_same_bits(rounded[layer], expected, f"layer {layer}")
    check_same_bits(round_state_reference(state, dtype, seed=None), state.to(dtype), "no seed")


@DTYPES
def test_draws_follow_the_seed_the_element_and_the_layer(dtype: torch.dtype) -> None:
    case = replace(BASE, layers=2, state_dtype=dtype, rounding="stochastic")
    check_draws(case, "cpu")
