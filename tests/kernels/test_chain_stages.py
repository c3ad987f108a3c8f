# SPDX-License-Identifier: Apache-2.0
"""Which kernels a chain launches for which layer, recorded: nothing is compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from graphrt.cache import ReplayCache
from graphrt.config import PdlLinks
from graphrt.kernels.ahead import Launch, recorded
from graphrt.kernels.chain import BoundChain
from graphrt.kernels.links import kernels_of, stages_of
from graphrt.kernels.tuning import FusedLaunch
from tests.helpers.cases import BASE, Case
from tests.helpers.links import ALL, INNER

Run = Callable[[], list[str]]


def bound(
    case: Case,
    links: PdlLinks,
    patch: pytest.MonkeyPatch,
    launches: dict[str, Launch],
    *,
    alone: bool = True,
) -> tuple[BoundChain, Run, Run]:
    """Return a chain of one kernel a layer, and what runs advance or a layer and names it."""
    generator = torch.Generator().manual_seed(0)
    cache = ReplayCache(case.config("cpu"))
    chain = BoundChain(cache, torch.zeros(1, dtype=torch.int32), case.tokens, alone=alone)
    patch.setattr(chain, "_use_kernels", True)
    patch.setattr(chain, "_links", links)
    patch.setattr(chain, "_launch", replace(chain._launch, single=FusedLaunch(16)))
    inputs, weights = case.inputs([True], case.tokens, generator), case.weights(generator)
    out = case.empty_out(1, case.tokens, "cpu")

    def said(run: Callable[[], None]) -> list[str]:
        launches.clear()
        run()
        return list(launches)

    return (
        chain,
        lambda: said(chain.advance),
        lambda: said(lambda: chain.layer(0, inputs, weights, out)),
    )


def test_the_first_layer_behind_advance_has_a_kernel_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with recorded() as launches:
        _, advance, layer = bound(BASE, ALL, monkeypatch, launches)
        ran = [step() for step in (advance, layer, layer, layer, advance, layer, layer)]
    assert ran == [
        ["advance"],
        ["single"],
        ["single_next"],
        ["single_next"],
        ["advance"],
        ["single"],
        ["single_next"],
    ]


def test_without_its_link_every_layer_is_a_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with recorded() as launches:
        chain, advance, layer = bound(BASE, INNER, monkeypatch, launches)
        assert [step() for step in (advance, layer, layer)] == [["advance"], ["single"], ["single"]]
    assert [stage.name for stage in chain.stages] == ["advance", "single"]


@pytest.mark.parametrize(("layers", "names"), [(1, ["single"]), (2, ["single", "single_next"])])
def test_a_chain_says_which_kernels_it_has(
    layers: int, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with recorded() as launches:
        chain, *_ = bound(replace(BASE, layers=layers), ALL, monkeypatch, launches)
    assert [stage.name for stage in chain.stages] == ["advance", *names]


def test_the_kernels_of_a_launch_in_order() -> None:
    assert kernels_of(stages_of("single"), 3) == [
        "_advance_kernel",
        "_single_kernel",
        "_single_next_kernel",
        "_single_next_kernel",
    ]
    layer = ["_conv1d_kernel", "_fused_kernel"]
    assert kernels_of(stages_of("fused"), 2) == ["_advance_kernel", *layer, *layer]


def test_among_other_kernels_a_single_one_is_launched_normally(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with recorded() as launches:
        chain, advance, layer = bound(BASE, ALL, monkeypatch, launches, alone=False)
        assert chain.links == INNER
        assert [step() for step in (advance, layer, layer)] == [["advance"], ["single"], ["single"]]
        assert launches["single"].keywords["launch_pdl"] is False
        monkeypatch.setattr(chain, "_launch", replace(chain._launch, single=None))
        assert chain.links == ALL
        layer()
        assert launches["conv1d"].keywords["launch_pdl"] is True
