# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels, interpreted, against the oracle and, stage by stage, against their twins."""

from dataclasses import replace
from typing import Any

import pytest

from graphrt.kernels import chain
from graphrt.kernels.tuning import (
    ChainLaunch,
    Conv1dLaunch,
    FusedLaunch,
    PrecomputeLaunch,
    StateUpdateLaunch,
    lookup,
)
from tests.helpers.checks import Mismatch
from tests.helpers.mirror import MirroredDriver
from tests.helpers.oracle import Perturbation
from tests.helpers.rows import BF16, CONVOLVING_ROWS, FP16, INTERPRETED_ROWS, TINY

SMALLEST = replace(TINY, heads=1, tokens=2, launch_tokens=(1, 2), window=3, buckets=(1, 2), slots=3)
# Blocks larger and smaller than what they cover, heads that share a program or do not.
LAUNCHES = {
    "wide": ChainLaunch(
        Conv1dLaunch(256, 4),
        PrecomputeLaunch(4, 4),
        StateUpdateLaunch(32, 2, in_shared=True),
        "default",
    ),
    "narrow": ChainLaunch(
        Conv1dLaunch(32, 1), PrecomputeLaunch(1, 1), StateUpdateLaunch(16, early_b=True), "default"
    ),
    "uneven": ChainLaunch(
        Conv1dLaunch(128, 4),
        PrecomputeLaunch(2, 2),
        StateUpdateLaunch(64, 4, in_shared=True, early_b=True),
        "default",
    ),
}
FUSED = {
    "fused": FusedLaunch(16),
    "fused_few": FusedLaunch(8),
    "fused_wide": FusedLaunch(32, in_shared=True),
    "fused_uneven": FusedLaunch(64, 4, in_shared=True),
}
SINGLE = {"single_rows": FusedLaunch(32, 4), "single_uneven": FusedLaunch(64, 4)}
LAUNCHES |= {name: replace(LAUNCHES["narrow"], fused=launch) for name, launch in FUSED.items()}
LAUNCHES |= {name: replace(LAUNCHES["narrow"], single=launch) for name, launch in SINGLE.items()}
CHAINS: dict[str, dict[str, FusedLaunch | None]] = {
    "pair": {"fused": None, "single": None},
    "fused": {"fused": FUSED["fused"], "single": None},
    "single": {"fused": None, "single": SINGLE["single_rows"]},
}
ROWS = [
    *((name, row) for name in ("pair", "fused") for row in INTERPRETED_ROWS),
    *(("single", row) for row in CONVOLVING_ROWS),
]
EACH = pytest.mark.parametrize("chosen", CHAINS.values(), ids=CHAINS)


def let_it_be(chosen: dict[str, FusedLaunch | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every chain run the pair, or fewer kernels instead of it."""

    def found(*given: Any, **named: Any) -> ChainLaunch:
        return replace(lookup(*given, **named), **chosen)

    monkeypatch.setattr(chain, "lookup", found)


# numpy evaluates what `tl.where` then drops: softplus divides 0 by 0 where exp(dt) is lost in 1.
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value):RuntimeWarning")
@pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"{row}-{name}" for name, row in ROWS])
def test_kernels_match_the_oracle_and_their_twins(
    name: str, row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it_be(CHAINS[name], monkeypatch)
    case = INTERPRETED_ROWS[row]
    launches = 5 if name == "single" else 8  # interpreted it takes twice as long
    report = MirroredDriver(case).run(launches)
    assert report.launches == launches


@EACH
def test_two_hundred_launches(
    chosen: dict[str, FusedLaunch | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it_be(chosen, monkeypatch)
    report = MirroredDriver(SMALLEST).run(200)
    for what in ("flushes", "wraps", "conv_wraps", "padding_rows", "recycled", "clamped"):
        assert getattr(report, what) >= 5, f"{what}: {report}"
    assert report.forgotten
    assert report.worst < 1e-5  # interpreted products are plain fp32


@pytest.mark.parametrize("launch", LAUNCHES.values(), ids=LAUNCHES)
def test_every_kind_of_launch_configuration(
    launch: ChainLaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "lookup", lambda shape, rows, **_: launch)
    case = replace(TINY, heads=6, groups=2, head_dim=80, state_dim=18, activation_dtype=BF16)
    MirroredDriver(case).run(5)


# Without draws a fused kernel has rows of P in pairs: of one warp, of four, and shared by two.
PAIRED = {
    name: replace(LAUNCHES["narrow"], fused=launch)
    for name, launch in (FUSED | {"fused_rows": FusedLaunch(64, 2)}).items()
    if name in ("fused_wide", "fused_uneven", "fused_rows")
}
FOLDS = [
    *(("stochastic", name, one) for name, one in LAUNCHES.items() if name != "single_uneven"),
    *(("nearest", name, one) for name, one in PAIRED.items()),
]


@pytest.mark.parametrize(
    ("rounding", "launch"),
    [(rounding, launch) for rounding, _, launch in FOLDS],
    ids=[f"{rounding}-{name}" for rounding, name, _ in FOLDS],
)
def test_a_fold_in_several_parts(
    rounding: str, launch: ChainLaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More columns of N than are worked on at once, for each number of warps; draws numbered on."""
    monkeypatch.setattr(chain, "lookup", lambda shape, rows, **_: launch)
    case = replace(
        SMALLEST, state_dim=256, activation_dtype=BF16, state_dtype=FP16, rounding=rounding
    )
    if rounding == "nearest":
        case = replace(case, head_dim=64)  # all rows of a tile
    assert MirroredDriver(case).run(16).flushes >= 3


@pytest.mark.parametrize("perturbation", Perturbation, ids=lambda p: p.name.lower())
def test_a_perturbed_reference_is_refused(perturbation: Perturbation) -> None:
    driver = MirroredDriver(
        SMALLEST, perturbation=perturbation, perturb_from=5, show_conv_out=False
    )
    with pytest.raises(Mismatch, match=r"^y of layer 0"):
        driver.run(40)
    assert driver.oracles[0].perturbed
    assert driver.report.launches > 5
