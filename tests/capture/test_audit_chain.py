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
from tests.helpers.audited import BARE, EARLY, LATE, ONE, PAIR, STOCHASTIC, codes, links_of
from tests.helpers.built import LARGE, SMALL
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
        (STOCHASTIC, ALL, 90, FusedLaunch(16, 4, in_shared=True)),
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
    linked = linked_stages(links, ONE)
    chain = audit_chain(codes(case, links, 1, capability, fused), ONE, linked)
    assert [verdict.stage for verdict in chain.stages] == ["advance", "conv1d", "fused"]
    assert chain.acquitted and not chain.findings and not chain.trusted, str(chain)


def test_the_declaration_is_what_the_kernels_do() -> None:
    """Over cases that use every optional argument, the declared accesses are those in the code."""
    kernels = {
        name: one.kernel
        for fused in (None, SMALL)
        for name, one in recorded_launches(RANK, ALL, 32, fused).items()
    }
    assert {stage.name: stage.kernel for stage in STAGES} == {
        name: kernel.__name__ for name, kernel in kernels.items()
    }
    read_by: dict[str, set[str]] = {stage.name: set() for stage in STAGES}
    written_by: dict[str, set[str]] = {stage.name: set() for stage in STAGES}
    for case, bucket, capability, fused in (
        (RANK, 32, 90, None),
        (RANK, LATE, 90, None),
        (STOCHASTIC, 32, 100, None),
        (RANK, 1, 90, SMALL),
    ):
        for stage, code in codes(case, ALL, bucket, capability, fused).items():
            module = read(code.ptx)
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
    for fused in (None, SMALL):
        memory.clear()
        for launch in recorded_launches(RANK, ALL, 32, fused).values():
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
