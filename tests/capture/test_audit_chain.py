# SPDX-License-Identifier: Apache-2.0
"""The audit acquits the chain as it is shipped, and convicts its kernels once their PTX is changed.

One rank of eight of a real model, as in tests/test_aot.py. Nothing runs, no GPU is needed.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from torch import Tensor

from graphrt.capture.audit.chain import audit_chain, audit_kernel
from graphrt.capture.audit.links import KernelCode, Link, chain_links
from graphrt.capture.audit.provenance import Provenance
from graphrt.capture.audit.ptx import read
from graphrt.capture.audit.verdict import Rule, Severity, Verdict
from graphrt.config import PdlLinks
from graphrt.errors import CaptureError
from graphrt.kernels.links import STAGES, linked_stages, stages_of
from graphrt.kernels.tuning import FusedLaunch
from tests.helpers.aot import recorded_launches
from tests.helpers.cases import BASE, Case
from tests.helpers.rows import FP16, RANK

STOCHASTIC = replace(RANK, state_dtype=FP16, rounding="stochastic")
BARE = replace(RANK, has_D=False, has_z=False, has_dt_bias=False, has_conv_bias=False)
ALL = PdlLinks(conv1d=True, precompute=True, state_update=True)
INNER = PdlLinks(conv1d=False, precompute=True, state_update=True)
NONE = PdlLinks(conv1d=False, precompute=False, state_update=False)
ONLY_CONV1D = PdlLinks(conv1d=True, precompute=False, state_update=False)
ONLY_PRECOMPUTE = PdlLinks(conv1d=False, precompute=True, state_update=False)
ONLY_STATE_UPDATE = PdlLinks(conv1d=False, precompute=False, state_update=True)
WAIT = "griddepcontrol.wait"
EARLY, LATE = 1, 64  # rows of RANK where a state update loads B before its wait, and after it


PAIR, ONE = stages_of(fused=False), stages_of(fused=True)
SMALL, LARGE = FusedLaunch(16), FusedLaunch(32, in_shared=True)


@cache
def codes(
    case: Case, links: PdlLinks, bucket: int, capability: int, fused: FusedLaunch | None = None
) -> dict[str, KernelCode]:
    launches = recorded_launches(case, links, bucket, fused)
    return {stage: KernelCode.of(one.compile(capability)) for stage, one in launches.items()}


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


# --- mutants --------------------------------------------------------------------------------------

LINKED = pytest.mark.parametrize("stage", ["conv1d", "precompute", "state_update", "fused"])


def links_of() -> dict[str, Link]:
    """Return the links of both chains: what they share is the same in both."""
    one = chain_links(ONE, linked_stages(ALL, ONE))
    return one | chain_links(PAIR, linked_stages(ALL, PAIR))


def code_of(stage: str) -> KernelCode:
    return codes(RANK, ALL, EARLY, 90, SMALL if stage == "fused" else None)[stage]


def lines_of(stage: str) -> list[str]:
    return code_of(stage).ptx.splitlines()


def verdict_on(stage: str, lines: list[str]) -> Verdict:
    code = replace(code_of(stage), ptx="\n".join(lines))
    return audit_kernel(code, links_of()[stage])


def the_wait(lines: list[str]) -> int:
    (index,) = (i for i, line in enumerate(lines) if WAIT in line)
    return index


@LINKED
def test_without_its_wait_a_kernel_is_convicted(stage: str) -> None:
    lines = lines_of(stage)
    del lines[the_wait(lines)]
    verdict = verdict_on(stage, lines)
    link = links_of()[stage]
    races = verdict.of(Severity.RACE)
    assert races[0].rule is Rule.NO_WAIT
    loaded = {f.argument for f in races if f.rule is Rule.EARLY_LOAD}
    assert loaded == (set(link.written) & set(link.reads)) - link.older


@LINKED
def test_a_second_wait_is_only_noted(stage: str) -> None:
    lines = lines_of(stage)
    index = the_wait(lines)
    verdict = verdict_on(stage, [*lines[:index], lines[index], *lines[index:]])
    assert verdict.acquitted
    assert [f.rule for f in verdict.findings] == [Rule.MANY_WAITS]


@LINKED
def test_a_wait_moved_below_any_load_of_upstream_s_is_convicted(stage: str) -> None:
    """The wait is put behind each such load in turn: the finding names that load's line."""
    lines = lines_of(stage)
    index = the_wait(lines)
    wait = lines.pop(index)
    link = links_of()[stage]
    unwaited = verdict_on(stage, lines)
    loads = {
        number: f.argument
        for f in unwaited.findings
        if f.rule is Rule.EARLY_LOAD
        for number in f.ptx_lines
    }
    assert len(loads) >= 3
    for number, argument in loads.items():
        assert argument in link.written
        verdict = verdict_on(stage, [*lines[:number], wait, *lines[number:]])
        found = [f for f in verdict.of(Severity.RACE) if number in f.ptx_lines]
        early = [f for f in found if f.rule is Rule.EARLY_LOAD]
        assert [f.argument for f in early] == [argument], number
        assert {f.rule for f in found} <= {Rule.EARLY_LOAD, Rule.STALE_ADDRESS}, number


@LINKED
def test_a_wait_at_the_very_start_is_acquitted(stage: str) -> None:
    lines = lines_of(stage)
    wait = lines.pop(the_wait(lines))
    start = next(i for i, line in enumerate(lines) if "%bb.0" in line)
    verdict = verdict_on(stage, [*lines[: start + 1], wait, *lines[start + 1 :]])
    assert verdict.acquitted, str(verdict)
    assert not verdict.trusted


@LINKED
@pytest.mark.parametrize(
    "before", ["@%p1 bra $around;", "@%p1 ret;", "@!%p1 exit;"], ids=["branch", "return", "exit"]
)
def test_a_path_around_the_wait_is_convicted(stage: str, before: str) -> None:
    lines = lines_of(stage)
    index = the_wait(lines)
    lines[index : index + 1] = [before, lines[index], *(["$around:"] if "bra" in before else [])]
    verdict = verdict_on(stage, lines)
    found = [f for f in verdict.of(Severity.RACE) if f.rule is Rule.NO_WAIT]
    assert [f.ptx_lines for f in found] == [(index + 1,)]


@LINKED
def test_a_wait_that_not_every_thread_makes_is_convicted(stage: str) -> None:
    lines = lines_of(stage)
    lines[the_wait(lines)] = f"@%p1 {WAIT};"
    assert Rule.NO_WAIT in {f.rule for f in verdict_on(stage, lines).of(Severity.RACE)}


SIGNAL = "griddepcontrol.launch_dependents"


def the_signal(lines: list[str]) -> int:
    (index,) = (i for i, line in enumerate(lines) if SIGNAL in line)
    return index


def test_conv1d_s_signal_moved_above_its_wait_is_convicted() -> None:
    """precompute would start, and read cursors and dt, while the kernels that write them run."""
    lines = lines_of("conv1d")
    signal = lines.pop(the_signal(lines))
    start = next(i for i, line in enumerate(lines) if "%bb.0" in line)
    for index in (start + 1, the_wait(lines)):
        verdict = verdict_on("conv1d", [*lines[:index], signal, *lines[index:]])
        (race,) = verdict.of(Severity.RACE)
        assert (race.rule, race.ptx_lines) == (Rule.EARLY_SIGNAL, (index + 1,))
        assert not verdict.acquitted


def test_conv1d_s_signal_behind_a_wait_that_not_every_thread_makes_is_convicted() -> None:
    lines = lines_of("conv1d")
    lines[the_wait(lines)] = f"@%p1 {WAIT};"
    rules = {f.rule for f in verdict_on("conv1d", lines).of(Severity.RACE)}
    assert {Rule.NO_WAIT, Rule.EARLY_SIGNAL} <= rules


def test_conv1d_s_signal_at_its_end_is_only_noted() -> None:
    lines = lines_of("conv1d")
    signal = lines.pop(the_signal(lines))
    end = max(i for i, line in enumerate(lines) if line.strip() == "ret;")
    verdict = verdict_on("conv1d", [*lines[:end], signal, *lines[end:]])
    assert verdict.acquitted
    assert [f.rule for f in verdict.findings] == [Rule.LATE_SIGNAL]


def test_conv1d_touches_only_its_weights_before_the_wait() -> None:
    verdict = audit_kernel(codes(RANK, ALL, EARLY, 90)["conv1d"], links_of()["conv1d"])
    assert set(verdict.early) == {"weight_ptr", "bias_ptr"}
    assert not verdict.findings


@pytest.mark.parametrize("argument", ["weight_ptr", "bias_ptr"])
def test_weights_that_are_not_declared_constant_are_convicted(argument: str) -> None:
    conv1d = replace(STAGES[1], constant=STAGES[1].constant - {argument})
    links = chain_links((STAGES[0], conv1d), {"conv1d"})
    verdict = audit_kernel(codes(RANK, ALL, EARLY, 90)["conv1d"], links["conv1d"])
    races = verdict.of(Severity.RACE)
    assert {(f.rule, f.argument) for f in races} == {(Rule.EARLY_LOAD, argument)}


@pytest.mark.parametrize("argument", ["conv_pos_ptr", "conv_ring_ptr", "conv_out_ptr", "no_ptr"])
def test_what_a_stage_writes_or_nobody_reads_is_no_constant(argument: str) -> None:
    conv1d = replace(STAGES[1], constant=frozenset({argument}))
    with pytest.raises(CaptureError, match="written by no stage"):
        chain_links((STAGES[0], conv1d, *PAIR[2:]), set())


def test_were_conv1d_no_entry_precompute_s_cursors_would_be_convicted() -> None:
    """What makes them right is that conv1d signals after its wait, and the audit says so."""
    stages = (STAGES[0], replace(STAGES[1], entry=False), *PAIR[2:])
    chain = audit_chain(codes(RANK, ALL, EARLY, 90), stages, linked_stages(ALL, PAIR))
    races = {(f.stage, f.argument) for f in chain.findings if f.severity is Severity.RACE}
    assert ("precompute", "row_cursors_ptr") in races


def test_an_early_access_to_another_tensor_s_argument_is_convicted() -> None:
    """The state's pointer is replaced by conv_out's: early loads are now races."""
    lines = lines_of("state_update")
    number = codes(RANK, ALL, EARLY, 90)["state_update"].arguments.index("state_ptr")
    changed = [re.sub(rf"(ld\.param.*_param_){number}\]", r"\g<1>0]", line) for line in lines]
    assert changed != lines
    races = verdict_on("state_update", changed).of(Severity.RACE)
    assert {(f.rule, f.argument) for f in races} == {(Rule.EARLY_LOAD, "conv_out_ptr")}


@pytest.mark.parametrize("stage", ["advance", "conv1d", "precompute", "state_update", "fused"])
def test_without_its_signal_a_kernel_loses_its_overlap_and_is_no_race(stage: str) -> None:
    lines = [line for line in lines_of(stage) if "launch_dependents" not in line]
    verdict = verdict_on(stage, lines)
    assert not verdict.acquitted
    assert [(f.severity, f.rule) for f in verdict.findings] == [
        (Severity.LOST_OVERLAP, Rule.NO_SIGNAL)
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
