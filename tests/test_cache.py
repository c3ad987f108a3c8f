# SPDX-License-Identifier: Apache-2.0
"""ReplayCache: what is allocated, what its views are of, and what admission writes and leaves."""

import math
from dataclasses import replace

import pytest
import torch

from graphrt.cache import Prefilled, ReplayCache
from graphrt.errors import ConfigError
from graphrt.kernels.tensors import NO_CLAMP, SCRATCH
from tests.helpers.cases import BASE, Case, random_request
from tests.helpers.checks import check_same_bits
from tests.helpers.contents import CACHES, CURSORS
from tests.helpers.rows import BF16, FP16

CASE = replace(BASE, layers=2)
HISTORY = CASE.conv_width - 1  # rows of conv_ring that admission writes, its last


def poisoned_cache(case: Case = CASE) -> ReplayCache:
    cache = ReplayCache(case.config("cpu"))
    for name in CACHES:
        getattr(cache, name).fill_(math.nan)
    for name in CURSORS:
        getattr(cache.cursors, name).fill_(-77)
    return cache


def contents(cache: ReplayCache) -> dict[str, torch.Tensor]:
    tensors = {name: getattr(cache, name) for name in CACHES}
    tensors |= {name: getattr(cache.cursors, name) for name in CURSORS}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def request(case: Case = CASE) -> Prefilled:
    return random_request(case, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("with_prompt", [True, False], ids=["prefilled", "empty"])
def test_admission_writes_the_slot_and_nothing_else(with_prompt: bool) -> None:
    cache = poisoned_cache()
    expected = contents(cache)
    prompt = request() if with_prompt else None
    cache.admit(3, prompt, seed=2**62 + 1)

    expected["state"][:, 3] = prompt.state if prompt else 0
    expected["conv_ring"][:, 3, -HISTORY:] = prompt.conv_tail if prompt else 0
    for name in CURSORS:
        expected[name][3] = 2**62 + 1 if name == "rand_seed" else 0
    got = contents(cache)
    for name, tensor in expected.items():
        check_same_bits(got[name], tensor, name)


def test_a_slot_admitted_twice_is_the_second_request() -> None:
    cache = poisoned_cache()
    cache.admit(0, request(), seed=1)
    cache.admit(0, None, seed=2)
    assert not cache.state[:, 0].any()
    assert not cache.conv_ring[:, 0, -HISTORY:].any()
    assert cache.cursors.rand_seed[0] == 2


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=["bf16", "fp16"])
def test_a_prefilled_state_is_rounded_to_nearest_or_by_the_seed(dtype: torch.dtype) -> None:
    prompt = request()
    nearest = poisoned_cache(replace(CASE, state_dtype=dtype))
    nearest.admit(0, prompt, seed=1)
    check_same_bits(nearest.state[:, 0], prompt.state.to(dtype), "to nearest")

    stochastic = poisoned_cache(replace(CASE, state_dtype=dtype, rounding="stochastic"))
    for slot, seed in enumerate((1, 1, 2)):
        stochastic.admit(slot, prompt, seed)
    state = stochastic.state
    check_same_bits(state[:, 1], state[:, 0], "the same seed in another slot")
    assert (state[:, 2] != state[:, 0]).any()
    assert (state[:, 0] != nearest.state[:, 0]).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_a_prefilled_state_may_have_any_float_dtype(dtype: torch.dtype) -> None:
    prompt = request()
    cache = poisoned_cache()
    cache.admit(0, Prefilled(prompt.state.to(dtype), prompt.conv_tail.to(dtype)), seed=0)
    check_same_bits(cache.state[:, 0], prompt.state.to(dtype).float(), "state")
    check_same_bits(cache.conv_ring[:, 0, -HISTORY:], prompt.conv_tail.to(dtype).float(), "tail")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"layers": 1}, r"^prefilled\.state\.shape=\(1, 4, 16, 16\): must be \(2, 4, 16, 16\); "),
        ({"heads": 2}, r"^prefilled\.state\.shape=\(2, 2, 16, 16\): must be"),
        ({"state_dim": 32}, r"^prefilled\.state\.shape=\(2, 4, 16, 32\): must be"),
        ({"conv_width": 3}, r"^prefilled\.conv_tail\.shape=\(2, 2, 128\): must be \(2, 3, 128\); "),
    ],
)
def test_a_request_of_another_shape_is_refused_and_nothing_is_written(
    changed: dict[str, int], said: str
) -> None:
    cache = poisoned_cache()
    before = contents(cache)
    with pytest.raises(ConfigError, match=said):
        cache.admit(0, request(replace(CASE, **changed)), seed=0)
    for name, tensor in contents(cache).items():
        check_same_bits(tensor, before[name], name)


def test_a_layer_is_views_of_the_whole() -> None:
    cache = poisoned_cache()
    layer = cache.layer(1)
    assert layer.layer == 1
    for name in CACHES:
        view, whole = getattr(layer, name), getattr(cache, name)
        assert view.data_ptr() == whole[1].data_ptr()
        assert view.shape == whole.shape[1:]


@pytest.mark.parametrize("layer", [-1, 2, 100])
def test_a_layer_that_is_not_there_is_refused(layer: int) -> None:
    with pytest.raises(ConfigError, match=rf"^layer={layer}: must be 0 … 1; "):
        poisoned_cache().layer(layer)


def test_every_launch_shares_the_scratch() -> None:
    cache = poisoned_cache()
    whole = cache.scratch(4, 3)
    for rows, tokens in [(1, 1), (2, 3), (4, 1)]:
        part = cache.scratch(rows, tokens)
        assert part.conv_out.shape == (rows, tokens, CASE.shape().conv_dim)
        assert part.causal.shape == (rows, 4, 1, tokens, 16 + 8) and part.causal.is_contiguous()
        assert part.decay.shape == (rows, 4, tokens)
        assert part.fold_weight.shape == (rows, 4, 16) and part.fold_decay.shape == (rows, 4)
        assert part.row_cursors.shape == (rows, 8) and part.row_cursors.is_contiguous()
        for name in SCRATCH:
            assert getattr(part, name).data_ptr() == getattr(whole, name).data_ptr()


def test_before_any_launch_every_row_is_padding() -> None:
    rows = ReplayCache(CASE.config("cpu")).scratch(4, 3).row_cursors
    assert rows.tolist() == [[-1, 0, 0, 0, 0, 0, row, 0] for row in range(4)]


def test_other_cursors_are_over_the_same_caches_and_scratch() -> None:
    cache, stranger = poisoned_cache(), ReplayCache(CASE.config("cpu"))
    rows = torch.zeros(4, 8, dtype=torch.int64)
    other = cache.with_cursors(stranger.cursors, rows)
    assert other.state is cache.state and other.cursors is stranger.cursors
    assert other.scratch(2, 3).row_cursors.data_ptr() == rows.data_ptr()
    assert cache.scratch(2, 3).row_cursors.data_ptr() != rows.data_ptr()
    assert other.scratch(2, 3).causal.data_ptr() == cache.scratch(2, 3).causal.data_ptr()


def test_no_clamp_is_reported_at_first() -> None:
    clamped = ReplayCache(CASE.config("cpu")).cursors.clamped
    assert clamped.tolist() == [NO_CLAMP] * CASE.slots + [0]


@pytest.mark.usefixtures("poisoned_empty")
def test_nothing_is_left_uninitialised() -> None:
    cache = ReplayCache(CASE.config("cpu"))
    for name, tensor in contents(cache).items():
        assert not tensor.any(), name
