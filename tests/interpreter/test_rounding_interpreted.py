# SPDX-License-Identifier: Apache-2.0
"""The kernels' stochastic rounding, interpreted: the same words and the same bits as the twins'."""

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl

from graphrt.kernels.rounding import (
    round_stochastic,
    round_stochastic_reference,
    state_words,
    stochastic_words,
)
from tests.helpers.checks import check_same_bits
from tests.helpers.philox import check_state_words
from tests.helpers.rows import BF16, FP16, TINY
from tests.helpers.stochastic import check_draws

DTYPES = pytest.mark.parametrize("dtype", [BF16, FP16], ids=["bf16", "fp16"])
ROWS, OCTETS = 16, 4


@triton.jit
def _words_kernel(seed_ptr, out_ptr, layer, ROWS: tl.constexpr, OCTETS: tl.constexpr):
    row = tl.arange(0, ROWS)[:, None]
    octets = row * OCTETS + tl.arange(0, OCTETS)[None, :]
    words = stochastic_words(tl.load(seed_ptr), octets.to(tl.uint32), layer, ROWS, OCTETS)
    tl.store(out_ptr + row * (8 * OCTETS) + tl.arange(0, 8 * OCTETS)[None, :], words.to(tl.int64))


@triton.jit
def _round_kernel(value_ptr, words_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    words = tl.load(words_ptr + at).to(tl.uint32)
    rounded = round_stochastic(tl.load(value_ptr + at), words, out_ptr.dtype.element_ty)
    tl.store(out_ptr + at, rounded)


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 12345, 2**63 - 1])
@pytest.mark.parametrize("layer", [0, 3])
def test_words_are_philox_and_the_twins(seed: int, layer: int) -> None:
    words = torch.empty(1, ROWS, 8 * OCTETS, dtype=torch.int64)
    _words_kernel[(1,)](torch.tensor(seed), words, layer, ROWS=ROWS, OCTETS=OCTETS)
    check_state_words(words, seed, layer)
    twin = state_words(torch.tensor(seed), torch.tensor(layer), 1, ROWS, 8 * OCTETS)
    assert torch.equal(words, twin)


# numpy warns of the subnormal count of an infinity, then dropped, and of 65536 as an infinity.
@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
@DTYPES
def test_rounded_bits_are_the_twins(dtype: torch.dtype) -> None:
    special = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 65519.0, -65519.0, 2.0**-14]
    special += [2.0**-24, -(2.0**-24), 2.0**-25, 6.1e-5, -6.1e-5, 1.0, -1.0, 1e-30]
    exponent = torch.empty(4096 - len(special)).uniform_(-30, 12)
    value = torch.cat([torch.tensor(special), torch.randn(len(exponent)) * torch.exp2(exponent)])
    words = torch.randint(0, 2**32, (4096,))
    got = torch.empty(4096, dtype=dtype)
    _round_kernel[(1,)](value, words, got, SIZE=4096)
    expected = round_stochastic_reference(value, words, dtype)
    numbers = ~value.isnan()
    check_same_bits(got[numbers], expected[numbers], "rounded")
    assert got[~numbers].isnan().all()


@DTYPES
def test_draws_follow_the_seed_the_element_and_the_layer(dtype: torch.dtype) -> None:
    case = replace(
        TINY, layers=2, state_dtype=dtype, rounding="stochastic", window=3, slots=4, buckets=(4,)
    )
    check_draws(case, "cpu")
