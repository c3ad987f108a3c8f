# SPDX-License-Identifier: Apache-2.0
"""The twins give a request the same bits whatever its bucket, position, slot and neighbours."""

from dataclasses import replace

import pytest

from tests.helpers.cases import BASE, Case
from tests.helpers.invariance import check_alone_and_in_company
from tests.helpers.rows import BF16, FP16

WIDE = replace(BASE, slots=9, buckets=(1, 8))
CASES = {
    "fp32": WIDE,
    "bf16": replace(WIDE, activation_dtype=BF16),
    "state_fp16_stochastic": replace(
        WIDE, activation_dtype=BF16, state_dtype=FP16, rounding="stochastic"
    ),
    "tokens_1": replace(WIDE, tokens=1, launch_tokens=(1,)),
    "tokens_16": replace(WIDE, tokens=16, window=32, launch_tokens=(16,)),
    "head_dim_80_state_dim_128": replace(WIDE, head_dim=80, state_dim=128),
    "head_dim_17_state_dim_18": replace(WIDE, head_dim=17, state_dim=18),
    "heads_1": replace(WIDE, heads=1, groups=1),
    "in_proj_slices": replace(WIDE, layout="in_proj"),
    "transposed": replace(WIDE, layout="transposed"),
    "dt_large": replace(WIDE, dt_range="large"),
    "dt_very_negative": replace(WIDE, dt_range="very_negative"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_row_is_the_same_in_every_bucket(case: Case) -> None:
    check_alone_and_in_company(case, "cpu", [1, 8, 8], launches=60)
