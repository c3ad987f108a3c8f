# SPDX-License-Identifier: Apache-2.0
"""The audit acquits the chain as it is shipped, by what the kernels declare and by nothing else.

One rank of eight of a real model, as in tests/test_aot.py. Nothing runs, no GPU is needed.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from graphrt.capture.audit.chain import audit_chain, audit_kernel
from graphrt.capture.audit.provenance import Provenance
from graphrt.capture.audit.ptx import read
from graphrt.capture.audit.verdict import Rule, Severity
from graphrt.config import PdlLinks
from graphrt.kernels.links import STAGES, linked_stages
from graphrt.kernels.tuning import FusedLaunch
from tests.helpers.aot import recorded_launches
from tests.helpers.audited import (
    BARE,
    EARLY,
    FUSED,
    LATE,
    PAIR,
    SINGLE,
    STOCHASTIC,
    codes,
    links_of,
)
from tests.helpers.built import BY_ROWS, LARGE, SMALL
from tests.helpers.cases import BASE, Case
from tests.helpers.links import (
    ALL,
    INNER,
    NONE,
    ONLY_CONV1D,
    ONLY_PRECOMPUTE,
    ONLY_STATE_UPDATE,
)
from tests.helpers.rows import RANK

# What chains of fewer kernels run, fused and single.
CHOICES: tuple[tuple[FusedLaunch | None, ...], ...] = ((), (SMALL,), (None, BY_ROWS))


@pytest.mark.parametrize(
    ("case", "links", "bucket", "capability"),
    [
        (RANK, ALL, 1, 90),
        (RANK, ALL, 32, 90),
        (RANK, ALL, 64, 90),
        (RANK, ALL, 32, 100),
        (RANK, ALL, 64, 100),
        (STOCHASTIC, ALL, 32, 100),
        (BARE, ALL, 32, 90),
        (BASE, ALL, 2, 90),
        (RANK, INNER, 32, 90),
        (RANK, ONLY_CONV1D, 32, 90),
        (RANK, ONLY_PRECOMPUTE, 32, 90),
        (RANK, ONLY_STATE_UPDATE, 32, 90),
        (RANK, NONE, 32, 90),
    ],
    ids=[
        "one",
        "sm_90",
        "large_sm_90",
        "sm_100",
        "large_sm_100",
        "stochastic",
        "bare",
        "fp32",
        "inner",
        "only_conv1d",
        "only_precompute",
        "only_state_update",
        "none",
    ],
)
def test_the_shipped_chain_is_acquitted(
    case: Case, links: PdlLinks, bucket: int, capability: int
) -> None:
    linked = linked_stages(links, PAIR)
    chain = audit_chain(codes(case, links, bucket, capability), PAIR, linked)
    assert [verdict.stage for verdict in chain.stages] == [stage.name for stage in PAIR]
    assert chain.acquitted, str(chain)
    # Where B is loaded when the fold needs it, the declaration is noted to be without effect.
    history = {("state_update", "b_ring_ptr")}
    trusted = {(trusted.stage, trusted.argument) for trusted in chain.trusted}
    idle = {(f.stage, f.argument) for f in chain.findings if f.rule is Rule.IDLE}
    assert len(idle) == len(chain.findings), str(chain)
    one = recorded_launches(case, links, bucket)["state_update"]
    early = links.state_update and one.keywords["EARLY_B"]
    assert trusted == (history if early else set())
    assert idle == (history if links.state_update and not early else set())


@pytest.mark.parametrize(
    ("case", "links", "capability", "fused"),
    [
        (RANK, ALL, 90, SMALL),
        (RANK, ALL, 90, LARGE),
        (RANK, ALL, 100, LARGE),
        (STOCHASTIC, ALL, 90, FusedLaunch(64, 4, in_shared=True)),
        (BARE, ALL, 90, SMALL),
        (BASE, ALL, 90, SMALL),
        (RANK, INNER, 90, SMALL),
        (RANK, ONLY_CONV1D, 90, SMALL),
        (RANK, ONLY_PRECOMPUTE, 90, SMALL),
        (RANK, NONE, 90, SMALL),
    ],
    ids=[
        *("small", "large", "sm_100", "stochastic", "bare", "fp32"),
        *("inner", "only_conv1d", "only_precompute", "none"),
    ],
)
def test_the_fused_chain_is_acquitted(
    case: Case, links: PdlLinks, capability: int, fused: FusedLaunch
) -> None:
    """conv1d signals when all before it has completed: nothing that is read early is trusted."""
    linked = linked_stages(links, FUSED)
    chain = audit_chain(codes(case, links, 1, capability, fused), FUSED, linked)
    assert [verdict.stage for verdict in chain.stages] == ["advance", "conv1d", "fused"]
    assert chain.acquitted and not chain.findings and not chain.trusted, str(chain)


@pytest.mark.parametrize(
    ("case", "capability", "launch"),
    [
        (RANK, 90, BY_ROWS),
        (RANK, 90, FusedLaunch(32, 2, in_shared=True)),
        (RANK, 100, BY_ROWS),
        (STOCHASTIC, 90, FusedLaunch(32, 2)),
        (BARE, 90, BY_ROWS),
        (BASE, 90, FusedLaunch(32, 2)),
    ],
    ids=["by_rows", "in_shared", "sm_100", "stochastic", "bare", "fp32"],
)
def test_the_chain_of_one_kernel_a_layer_is_acquitted(
    case: Case, capability: int, launch: FusedLaunch
) -> None:
    """Behind another layer caches are read early, in rows that are trusted to be its own."""
    linked = linked_stages(ALL, SINGLE)
    chain = audit_chain(codes(case, ALL, 1, capability, single=launch), SINGLE, linked)
    first, behind = chain.stages[1:]
    assert [verdict.stage for verdict in chain.stages] == ["advance", "single", "single_next"]
    assert chain.acquitted and not chain.findings, str(chain)
    weights = {name for name in SINGLE[1].constant if name in first.early}
    assert set(first.early) == weights >= {"conv_weight_ptr", "A_ptr"}
    caches = {"state_ptr", "x_ring_ptr", "b_ring_ptr", "dt_ring_ptr", "conv_ring_ptr"}
    assert set(behind.early) == weights | caches | {"row_cursors_ptr"}
    assert {(t.stage, t.argument) for t in chain.trusted} == {
        ("single_next", argument) for argument in caches
    }


@pytest.mark.parametrize("links", [INNER, NONE], ids=["inner", "none"])
def test_a_single_kernel_that_is_not_linked_is_acquitted(links: PdlLinks) -> None:
    stages = SINGLE[:2]
    chain = audit_chain(codes(RANK, links, 1, 90, single=BY_ROWS), stages, frozenset())
    assert chain.acquitted and not chain.findings, str(chain)


def test_behind_advance_the_kernel_of_later_layers_would_be_convicted() -> None:
    """It reads cursors and caches before its wait, which only another layer's signal allows."""
    stages = (SINGLE[0], replace(SINGLE[2], behind=False, older=frozenset()))
    code = codes(RANK, ALL, 1, 90, single=BY_ROWS)
    chain = audit_chain(code, stages, {"single_next"})
    races = {f.argument for f in chain.findings if f.rule is Rule.EARLY_LOAD}
    assert {"row_cursors_ptr", "state_ptr", "conv_ring_ptr"} <= races


def test_the_declaration_is_what_the_kernels_do() -> None:
    """Over cases that use every optional argument, the declared accesses are those in the code."""
    kernels = {
        name: one.kernel
        for choice in CHOICES
        for name, one in recorded_launches(RANK, ALL, 32, *choice).items()
    }
    assert {stage.name for stage in STAGES} == set(kernels)
    read_by: dict[str, set[str]] = {stage.name: set() for stage in STAGES}
    written_by: dict[str, set[str]] = {stage.name: set() for stage in STAGES}
    for case, bucket, capability, choice in (
        (RANK, 32, 90, ()),
        (RANK, LATE, 90, ()),
        (STOCHASTIC, 32, 100, ()),
        (RANK, 1, 90, (SMALL,)),
        (RANK, 1, 90, (None, BY_ROWS)),
    ):
        for stage, code in codes(case, ALL, bucket, capability, *choice).items():
            module = read(code.ptx)
            assert module.kernel().name == next(s.kernel for s in STAGES if s.name == stage)
            provenance = Provenance(module, module.kernel())
            provenance.solve()
            for access in provenance.accesses():
                names = {code.arguments[number] for number in access.arguments}
                assert access.decided and len(names) == 1
                if access.kind.reads:
                    read_by[stage] |= names
                if access.kind.writes:
                    written_by[stage] |= names
    for stage in STAGES:
        arguments = kernels[stage.name].arg_names
        pointers = {name for name in arguments if name.endswith("_ptr")}
        assert set(stage.reads) | set(stage.writes) | stage.asked == pointers
        assert not stage.asked & (set(stage.reads) | set(stage.writes))
        assert set(stage.reads) == read_by[stage.name]
        assert set(stage.writes) == written_by[stage.name]


def test_one_name_is_one_tensor_in_every_kernel() -> None:
    """The declaration calls tensors after the arguments, so these must agree across the chain."""
    memory: dict[str, int] = {}
    for choice in CHOICES:
        memory.clear()
        for launch in recorded_launches(RANK, ALL, 32, *choice).values():
            for name, value in zip(launch.kernel.arg_names, launch.arguments, strict=False):
                if isinstance(value, Tensor):
                    assert memory.setdefault(name, value.data_ptr()) == value.data_ptr(), name
        assert len(set(memory.values())) == len(memory), "two names of one tensor"


def test_without_the_declaration_exactly_the_history_reads_are_convicted() -> None:
    link = replace(links_of()["state_update"], older=frozenset())
    verdict = audit_kernel(codes(RANK, ALL, EARLY, 90)["state_update"], link)
    races = verdict.of(Severity.RACE)
    assert {f.rule for f in races} == {Rule.EARLY_LOAD}
    assert {f.argument for f in races} == {"b_ring_ptr"}
    for finding in races:
        assert finding.source is not None
        assert finding.source.file.endswith("fold.py")


def test_a_declaration_that_is_not_needed_is_noted() -> None:
    link = replace(links_of()["precompute"], older=frozenset({"b_ring_ptr"}))
    verdict = audit_kernel(codes(RANK, ALL, EARLY, 90)["precompute"], link)
    assert verdict.acquitted
    assert [(f.rule, f.argument) for f in verdict.findings] == [(Rule.IDLE, "b_ring_ptr")]


def test_a_store_that_is_not_declared_is_reported() -> None:
    link = links_of()["precompute"]
    writes = {name: tensor for name, tensor in link.writes.items() if name != "causal_ptr"}
    verdict = audit_kernel(codes(RANK, ALL, EARLY, 90)["precompute"], replace(link, writes=writes))
    assert [(f.severity, f.rule, f.argument) for f in verdict.findings] == [
        (Severity.UNDECIDED, Rule.UNDECLARED, "causal_ptr")
    ]


def test_the_verdict_in_the_documentation_is_the_chain_s() -> None:
    """But for the numbers of lines, which move with the kernel."""
    document = Path(__file__).parents[2] / "docs" / "inspection.md"
    chain = audit_chain(codes(RANK, ALL, EARLY, 90), PAIR, linked_stages(ALL, PAIR))
    printed, written = (
        re.sub(r"\.py:\d+", ".py", text)
        for text in (str(chain.stages[-1]), document.read_text("utf-8"))
    )
    assert f"```text\n{printed}\n```" in written
