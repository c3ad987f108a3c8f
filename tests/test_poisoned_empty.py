# SPDX-License-Identifier: Apache-2.0
"""The fixture poisoned_empty really poisons: tests that rely on it would pass without it."""

import pytest
import torch


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_floats_start_as_nan(dtype: torch.dtype) -> None:
    like = torch.zeros(2, 3, dtype=dtype)
    for fresh in (
        torch.empty(2, 3, dtype=dtype),
        torch.empty_like(like),
        torch.empty_strided((2, 3), (3, 1), dtype=dtype),
        like.new_empty(2, 3),
    ):
        assert fresh.dtype == dtype
        assert fresh.isnan().all()


@pytest.mark.usefixtures("poisoned_empty")
def test_integers_start_as_their_lowest_value() -> None:
    assert torch.empty(4, dtype=torch.int32).eq(-(2**31)).all()


def test_without_the_fixture_nothing_is_patched() -> None:
    assert torch.empty.__module__ != "tests.conftest"
    assert type(torch.empty).__name__ == "builtin_function_or_method"
