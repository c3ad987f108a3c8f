# SPDX-License-Identifier: Apache-2.0
"""The comparison with the oracle can fail: a reference that is wrong in one token is refused.

Each perturbation spoils one token of one request from some launch on; the run, which passes without
it, must stop there and not at anything before.
"""

from dataclasses import replace

import pytest
import torch

from tests.helpers import checks
from tests.helpers.cases import BASE, Case
from tests.helpers.checks import Mismatch
from tests.helpers.drive import ChainDriver
from tests.helpers.oracle import Perturbation
from tests.helpers.rows import BF16, FP16

CASES = {
    "fp32": BASE,
    "bf16": replace(BASE, activation_dtype=BF16),
    "fp16": replace(BASE, activation_dtype=FP16),
    "state_bf16": replace(BASE, state_dtype=BF16),
    "state_bf16_stochastic": replace(BASE, state_dtype=BF16, rounding="stochastic"),
}
CASES = {
    f"{name}_{seed}": replace(case, seed=seed) for name, case in CASES.items() for seed in range(3)
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("perturbation", Perturbation, ids=lambda p: p.name.lower())
def test_a_perturbed_reference_is_refused(case: Case, perturbation: Perturbation) -> None:
    driver = ChainDriver(case, perturbation=perturbation, perturb_from=20, show_conv_out=False)
    with pytest.raises(Mismatch, match=r"^y of layer 0"):
        driver.run(60)
    assert driver.oracles[0].perturbed
    assert driver.report.launches > 20
    assert driver.report.worst <= driver.limit


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_same_run_passes_unperturbed(case: Case) -> None:
    ChainDriver(case, show_conv_out=False).run(200)


def test_nan_is_refused_by_every_check() -> None:
    nan, zero = torch.full((1, 2, 1, 4), torch.nan), torch.zeros(1, 2, 1, 4)
    one = torch.ones(1, 2, 1, 4, dtype=torch.float64)
    for check in (
        lambda: checks.check_rows(nan, one, 1.0, ""),
        lambda: checks.check_same_bits(nan, zero, ""),
        lambda: checks.check_dt(nan, one, ""),
        lambda: checks.check_rounded(nan, one, one, ""),
        lambda: checks.check_stored(nan[0].half(), one[0], 1.0, True, ""),
    ):
        with pytest.raises(Mismatch):
            check()
