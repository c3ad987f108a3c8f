# SPDX-License-Identifier: Apache-2.0
"""The interpreted kernels give a request the same bits in every bucket and launch configuration."""

from dataclasses import replace

import pytest

from graphrt.kernels import chain
from graphrt.kernels.tuning import (
    ChainLaunch,
    Conv1dLaunch,
    FusedLaunch,
    PrecomputeLaunch,
    StateUpdateLaunch,
)
from tests.helpers.cases import Case
from tests.helpers.invariance import check_alone_and_in_company
from tests.helpers.rows import BF16, FP16, TINY

CASES = {
    "fp32": replace(TINY, slots=5, buckets=(1, 4)),
    "one_token": replace(
        TINY,
        heads=1,
        slots=5,
        buckets=(1, 4),
        tokens=1,
        launch_tokens=(1,),
        window=2,  # so that it flushes in 20 launches
        head_dim=32,
        state_dim=32,
        activation_dtype=BF16,
    ),
    "bf16_state_fp16_stochastic": replace(
        TINY,
        slots=5,
        buckets=(1, 4),
        head_dim=32,
        state_dim=64,  # a fold of one warp takes it in two parts, of two in one
        activation_dtype=BF16,
        state_dtype=FP16,
        rounding="stochastic",
    ),
}
ALONE = ChainLaunch(
    Conv1dLaunch(64, 2), PrecomputeLaunch(1, 2), StateUpdateLaunch(16, early_b=True), "default"
)
COMPANY = ChainLaunch(
    Conv1dLaunch(256, 4),
    PrecomputeLaunch(2, 4),
    StateUpdateLaunch(32, 2, in_shared=True),
    "default",
)


COMPANIES = {
    "pair": COMPANY,
    "fused": replace(COMPANY, fused=FusedLaunch(16)),
    "fused_warps": replace(COMPANY, fused=FusedLaunch(32, 2, in_shared=True)),
    "single": replace(COMPANY, single=FusedLaunch(32, 4)),
}


@pytest.mark.parametrize("company", COMPANIES.values(), ids=COMPANIES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_row_is_the_same_in_every_bucket(
    case: Case, company: ChainLaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "lookup", lambda shape, rows, **_: ALONE if rows == 1 else company)
    check_alone_and_in_company(case, "cpu", [1, 4], launches=20)
