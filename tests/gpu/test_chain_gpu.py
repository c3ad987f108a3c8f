# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels against the float64 oracle, over random launches on the GPU."""

from dataclasses import replace
from typing import Any, TypeAlias

import pytest
import torch

from graphrt.config import ChainShape, PdlLinks
from graphrt.kernels import chain
from graphrt.kernels.pdl import pdl_supported
from graphrt.kernels.tuning import ChainLaunch, FusedLaunch, StateUpdateLaunch, lookup
from graphrt.kernels.whole_lines import PREFETCH_SIZE
from tests.helpers.cases import BASE, Case
from tests.helpers.drive import ChainDriver, Report
from tests.helpers.invariance import check_alone_and_in_company
from tests.helpers.rows import BF16, FP16, GPU_ROWS, RANK
from tests.helpers.stochastic import check_draws
from tools.tune import FUSED, SINGLE, STATE_UPDATE, label

pytestmark = pytest.mark.gpu

LAUNCHES = 200
LINKS = {
    "none": PdlLinks(conv1d=False, precompute=False, state_update=False),
    "conv1d": PdlLinks(conv1d=True, precompute=False, state_update=False),
    "precompute": PdlLinks(conv1d=False, precompute=True, state_update=False),
    "state_update": PdlLinks(conv1d=False, precompute=False, state_update=True),
    "inner": PdlLinks(conv1d=False, precompute=True, state_update=True),
}


def drive(case: Case, pdl: PdlLinks | None = None) -> tuple[ChainDriver, Report]:
    driver = ChainDriver(case, "cuda", pdl=pdl)
    report = driver.run(LAUNCHES)
    print(f"worst relative error {report.worst:.2e}, {report.flushes} flushes")
    assert report.launches == LAUNCHES
    for what in ("flushes", "wraps", "padding_rows", "recycled", "clamped", "forgotten"):
        assert getattr(report, what), f"{what}: {report}"
    return driver, report


def kernels_of(driver: ChainDriver) -> set[Any]:
    """Return the compiled kernels that ran."""
    return set().union(*(bound.compiled for bound in driver.chains.values()))


def linked_kernels(driver: ChainDriver) -> dict[str, bool]:
    """Return whether each kernel that ran was launched with PDL, by name."""
    return {one.metadata.name: bool(one.metadata.launch_pdl) for one in kernels_of(driver)}


def kernels_that_fetch_lines(driver: ChainDriver) -> set[str]:
    """Return the names of the kernels that ran and have L2 fetch whole lines."""
    return {one.metadata.name for one in kernels_of(driver) if PREFETCH_SIZE in one.asm["ptx"]}


Chosen: TypeAlias = dict[str, FusedLaunch | None]


def let_it_be(chosen: Chosen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every chain run the pair, or fewer kernels instead of it."""

    def found(shape: ChainShape, rows: int, **key: Any) -> ChainLaunch:
        return replace(lookup(shape, rows, **key), **chosen)

    monkeypatch.setattr(chain, "lookup", found)


CHAINS: dict[str, Chosen] = {
    "pair": {"fused": None, "single": None},
    "fused": {"fused": FusedLaunch(16), "single": None},
    "single": {"single": FusedLaunch(32, 4)},
}
EACH = pytest.mark.parametrize("chain_of", CHAINS)


@EACH
@pytest.mark.parametrize("case", GPU_ROWS.values(), ids=GPU_ROWS)
def test_random_launches_match_the_oracle(
    case: Case, chain_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it_be(CHAINS[chain_of], monkeypatch)
    driver, _ = drive(case)
    linked = pdl_supported(driver.device)
    stages = {
        "pair": {"conv1d", "precompute", "state_update"},
        "fused": {"conv1d", "fused"},
        "single": {"single", "single_next"} if linked and case.layers > 1 else {"single"},
    }
    assert linked_kernels(driver) == {
        "_advance_kernel": False,
        "_accept_kernel": False,
        **{f"_{stage}_kernel": linked for stage in stages[chain_of]},
    }
    assert kernels_that_fetch_lines(driver) == {f"_{stage}_kernel" for stage in stages[chain_of]}


@EACH
@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS)
def test_every_choice_of_links_is_right(
    links: PdlLinks, chain_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it_be(CHAINS[chain_of], monkeypatch)
    driver, _ = drive(replace(BASE, activation_dtype=BF16, launch_tokens=(3,)), pdl=links)
    if not pdl_supported(driver.device):
        links = LINKS["none"]
    linked = linked_kernels(driver)
    assert linked["_single_kernel" if chain_of == "single" else "_conv1d_kernel"] == links.conv1d
    if chain_of == "fused":
        assert linked["_fused_kernel"] == links.precompute
    elif chain_of == "pair":
        assert linked["_precompute_kernel"] == links.precompute
        assert linked["_state_update_kernel"] == links.state_update


def buckets_that_launch_differently(case: Case, largest: int) -> list[int]:
    """Return 1, then each power of two whose launch configuration no smaller one has."""
    chosen = {}
    for bucket in (2**i for i in range(largest.bit_length())):
        chosen.setdefault(lookup(case.shape(), bucket), bucket)
    return list(chosen.values())


WIDE = {
    "fp32": replace(BASE, heads=16),
    "bf16_state_fp16_stochastic": replace(
        BASE,
        heads=16,
        head_dim=48,
        state_dim=18,
        activation_dtype=BF16,
        state_dtype=FP16,
        rounding="stochastic",
    ),
}
ONE_TOKEN = replace(RANK, tokens=1, window=2)  # read out by sums, not by products


@pytest.mark.parametrize("case", WIDE.values(), ids=WIDE)
def test_a_row_is_the_same_in_every_bucket(case: Case) -> None:
    buckets = buckets_that_launch_differently(case, 256)
    assert len(buckets) >= 2, "the table has one configuration: choose another shape"
    largest = max(buckets)
    case = replace(case, slots=largest, buckets=(largest,), launch_tokens=(3,))
    check_alone_and_in_company(case, torch.device("cuda"), [*buckets, 2], launches=30)


@pytest.mark.parametrize("choice", STATE_UPDATE, ids=label)
@pytest.mark.parametrize("case", [*WIDE.values(), ONE_TOKEN], ids=[*WIDE, "one_token"])
def test_every_searched_state_update_gives_the_same_bits(
    case: Case, choice: StateUpdateLaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, company = StateUpdateLaunch(16), choice

    def found(shape: ChainShape, rows: int, **key: Any) -> ChainLaunch:
        state_update = alone if rows == 1 else company
        return replace(lookup(shape, rows, **key), state_update=state_update, **CHAINS["pair"])

    monkeypatch.setattr(chain, "lookup", found)
    case = replace(case, slots=4, buckets=(4,), launch_tokens=(case.tokens,))
    check_alone_and_in_company(case, torch.device("cuda"), [1, 4], launches=20)


NARROW_STATE = replace(
    BASE, heads=16, groups=2, state_dim=64, window=24, activation_dtype=BF16, state_dtype=FP16
)
ALIKE = {
    **WIDE,
    "activations_fp16": replace(BASE, heads=16, activation_dtype=FP16, state_dtype=FP16),
    "state_bf16": replace(BASE, heads=16, activation_dtype=BF16, state_dtype=BF16),
    "state_fp32": replace(BASE, heads=16, state_dim=128, activation_dtype=BF16),
    "rank": replace(RANK, state_dtype=FP16),
    "one_token": ONE_TOKEN,
    "tokens_16": replace(RANK, tokens=16, state_dtype=FP16),
    "window_24": NARROW_STATE,
}


FEWER = [
    (stage, one) for stage, ones in (("fused", FUSED), ("single", SINGLE)) for one in ones if one
]


@pytest.mark.parametrize(("stage", "choice"), FEWER, ids=[f"{s} {label(c)}" for s, c in FEWER])
@pytest.mark.parametrize("case", ALIKE.values(), ids=ALIKE)
def test_fewer_kernels_give_the_same_bits(
    case: Case, stage: str, choice: FusedLaunch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most of their products have tokens as rows, where the state update has them as columns."""

    def found(shape: ChainShape, rows: int, **key: Any) -> ChainLaunch:
        chosen = CHAINS["pair"] | ({} if rows == 1 else {stage: choice})
        return replace(lookup(shape, rows, **key), **chosen)

    monkeypatch.setattr(chain, "lookup", found)
    case = replace(case, slots=4, buckets=(4,), launch_tokens=(case.tokens,))
    check_alone_and_in_company(case, torch.device("cuda"), [1, 4], launches=80)


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=["bf16", "fp16"])
def test_draws_follow_the_seed_the_element_and_the_layer(dtype: torch.dtype) -> None:
    case = replace(BASE, layers=2, state_dtype=dtype, rounding="stochastic")
    check_draws(case, torch.device("cuda"))
