# SPDX-License-Identifier: Apache-2.0
"""What is not a number in one token's C spoils what that token reads out, and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from graphrt.cache import ReplayCache
from graphrt.kernels import chain
from graphrt.kernels.chain import BoundChain
from graphrt.kernels.tuning import ChainLaunch, FusedLaunch, lookup
from tests.helpers.cases import random_request
from tests.helpers.checks import check_same_bits
from tests.helpers.rows import BF16, FP16, TINY

CASE = replace(
    TINY, tokens=6, window=8, launch_tokens=(6,), activation_dtype=BF16, state_dtype=FP16
)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "chosen",
    [{"fused": None}, {"fused": FusedLaunch(16)}, {"single": FusedLaunch(32, 2)}],
    ids=["pair", "fused", "single"],
)
# numpy warns of what is not a number.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_only_the_tokens_that_have_it_are_spoilt(
    value: float, chosen: dict[str, FusedLaunch | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(*given: Any, **named: Any) -> ChainLaunch:
        return replace(lookup(*given, **named), **chosen)

    monkeypatch.setattr(chain, "lookup", found)
    clean, spoilt = launched(None), launched(value)
    seen = CASE.conv_width  # tokens whose convolution has token 0 in it
    assert not spoilt[:, :seen].isfinite().all(-1).any()
    assert spoilt[:, seen:].isfinite().all()
    check_same_bits(spoilt[:, seen:], clean[:, seen:], "y of the other tokens")


def launched(value: float | None) -> Tensor:
    """Return y of a launch whose first token has ``value`` where C begins."""
    generator = torch.Generator().manual_seed(5)
    cache, shape = ReplayCache(CASE.config("cpu")), CASE.shape()
    cache.admit(0, random_request(CASE, generator), 1)
    weights, inputs = CASE.weights(generator), CASE.inputs([True], CASE.tokens, generator)
    if value is not None:
        inputs.xbc[:, 0, shape.inner_dim + shape.groups * shape.state_dim] = value
    slots = torch.zeros(1, dtype=torch.int32)
    bound = BoundChain(cache, slots, CASE.tokens)
    out = CASE.empty_out(1, CASE.tokens, "cpu")
    bound.advance()
    bound.layer(0, inputs, weights, out)
    return out
