# SPDX-License-Identifier: Apache-2.0
"""A chain refuses tensors of another shape or dtype, and bindings its cache was not planned for."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from graphrt.cache import ReplayCache
from graphrt.errors import ConfigError
from graphrt.kernels.chain import BoundChain
from tests.helpers.cases import BASE
from tests.helpers.checks import check_same_bits
from tests.helpers.contents import CACHES, contents, poison_slot
from tests.helpers.rows import BF16

ROWS, TOKENS = 2, 3


def bound(rows: int = ROWS, tokens: int = TOKENS) -> tuple[BoundChain, ReplayCache]:
    cache = ReplayCache(BASE.config("cpu"))
    for slot in range(BASE.slots):
        poison_slot(cache, slot)
    return BoundChain(cache, torch.arange(rows, dtype=torch.int32), tokens), cache


def cut(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[..., :-1]


@pytest.mark.parametrize(
    ("group", "name", "spoil", "said"),
    [
        ("inputs", "xbc", cut, r"^xbc\.shape=\(2, 3, 127\): must be \(2, 3, 128\); "),
        ("inputs", "dt", cut, r"^dt\.shape=\(2, 3, 3\): must be \(2, 3, 4\); "),
        ("inputs", "z", cut, r"^z\.shape=\(2, 3, 4, 15\): must be \(2, 3, 4, 16\); "),
        ("inputs", "xbc", torch.Tensor.half, r"^xbc\.dtype=torch\.float16: must be torch\.float32"),
        ("inputs", "dt", torch.Tensor.double, r"^dt\.dtype=torch\.float64: must be "),
        ("weights", "conv_weight", cut, r"^conv_weight\.shape=\(128, 3\): must be \(128, 4\); "),
        ("weights", "conv_bias", cut, r"^conv_bias\.shape=\(127,\): must be \(128,\); "),
        ("weights", "A", cut, r"^A\.shape=\(3,\): must be \(4,\); "),
        (
            "weights",
            "A",
            torch.Tensor.bfloat16,
            r"^A\.dtype=torch\.bfloat16: must be torch\.flo",
        ),
        ("weights", "dt_bias", torch.Tensor.half, r"^dt_bias\.dtype=torch\.float16: must be "),
        ("weights", "D", cut, r"^D\.shape=\(3,\): must be \(4,\); "),
        ("weights", "D", lambda d: torch.stack([d, d], 1)[:, 0], r"^D\.stride\(\)=\(2,\): must be"),
    ],
)
def test_a_wrong_tensor_is_refused_before_anything_is_written(
    group: str, name: str, spoil: Any, said: str
) -> None:
    chain, cache = bound()
    generator = torch.Generator().manual_seed(0)
    given: dict[str, Any] = {
        "inputs": BASE.inputs([True] * ROWS, TOKENS, generator),
        "weights": BASE.weights(generator),
    }
    given[group] = replace(given[group], **{name: spoil(getattr(given[group], name))})
    before = contents(cache)
    with pytest.raises(ConfigError, match=said):
        chain.layer(0, given["inputs"], given["weights"], BASE.empty_out(ROWS, TOKENS, "cpu"))
    for cache_name in CACHES:
        check_same_bits(getattr(cache, cache_name), before[cache_name], cache_name)


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (torch.empty(ROWS, 1, 4, 16), r"^out\.shape=\(2, 1, 4, 16\): must be \(2, 3, 4, 16\); "),
        (torch.empty(ROWS, TOKENS, 4, 16, dtype=BF16), r"^out\.dtype=torch\.bfloat16: must be"),
    ],
)
def test_a_wrong_output_is_refused(out: torch.Tensor, said: str) -> None:
    chain, _ = bound()
    generator = torch.Generator().manual_seed(0)
    inputs = BASE.inputs([True] * ROWS, TOKENS, generator)
    with pytest.raises(ConfigError, match=said):
        chain.layer(0, inputs, BASE.weights(generator), out)


@pytest.mark.parametrize("layer", [-1, 1])
def test_a_layer_the_cache_does_not_have_is_refused(layer: int) -> None:
    chain, _ = bound()
    generator = torch.Generator().manual_seed(0)
    inputs = BASE.inputs([True] * ROWS, TOKENS, generator)
    out = BASE.empty_out(ROWS, TOKENS, "cpu")
    with pytest.raises(ConfigError, match=rf"^layer={layer}: must be 0 … 0; "):
        chain.layer(layer, inputs, BASE.weights(generator), out)


@pytest.mark.parametrize(
    "counts",
    [
        torch.zeros(ROWS + 1, dtype=torch.int32),
        torch.zeros(ROWS, 1, dtype=torch.int32),
        torch.zeros(ROWS, dtype=torch.int64),
    ],
    ids=["too_many", "two_dimensions", "int64"],
)
def test_counts_of_another_shape_or_dtype_are_refused(counts: torch.Tensor) -> None:
    chain, cache = bound()
    before = cache.cursors.accepted.clone()
    with pytest.raises(ConfigError, match=r"^counts="):
        chain.accept(counts)
    check_same_bits(cache.cursors.accepted, before, "accepted")


@pytest.mark.parametrize(
    ("rows", "tokens"),
    [(BASE.buckets[-1] + 1, BASE.tokens), (BASE.buckets[-1], BASE.tokens + 1)],
    ids=["more_rows", "more_tokens"],
)
def test_a_launch_larger_than_the_scratch_is_refused(rows: int, tokens: int) -> None:
    """The kernels take the grid from the inputs: such a launch would write past the scratch."""
    with pytest.raises(ConfigError):
        bound(rows, tokens)
