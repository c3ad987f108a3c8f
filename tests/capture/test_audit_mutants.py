# SPDX-License-Identifier: Apache-2.0
"""The audit convicts the kernels of the shipped chain once their PTX is changed.

One rank of eight of a real model, as in tests/test_aot.py. Nothing runs, no GPU is needed.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from graphrt.capture.audit.chain import audit_chain, audit_kernel
from graphrt.capture.audit.links import chain_links
from graphrt.capture.audit.verdict import Rule, Severity, Verdict
from graphrt.errors import CaptureError
from graphrt.kernels.links import STAGES, linked_stages
from tests.helpers.audited import EARLY, PAIR, code_of, codes, links_of
from tests.helpers.links import ALL
from tests.helpers.rows import RANK

WAIT = "griddepcontrol.wait"

LINKED = pytest.mark.parametrize(
    "stage",
    ["conv1d", "precompute", "state_update", "fused", "single", "single_next"],
)


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


ENTRIES = pytest.mark.parametrize("stage", [stage.name for stage in STAGES if stage.entry])


@ENTRIES
def test_an_entry_s_signal_moved_above_its_wait_is_convicted(stage: str) -> None:
    """What comes next would start, and read cursors, while the kernels that write them run."""
    lines = lines_of(stage)
    signal = lines.pop(the_signal(lines))
    start = next(i for i, line in enumerate(lines) if "%bb.0" in line)
    for index in (start + 1, the_wait(lines)):
        verdict = verdict_on(stage, [*lines[:index], signal, *lines[index:]])
        (race,) = verdict.of(Severity.RACE)
        assert (race.rule, race.ptx_lines) == (Rule.EARLY_SIGNAL, (index + 1,))
        assert not verdict.acquitted


@ENTRIES
def test_an_entry_s_signal_behind_a_wait_that_not_every_thread_makes_is_convicted(
    stage: str,
) -> None:
    lines = lines_of(stage)
    lines[the_wait(lines)] = f"@%p1 {WAIT};"
    rules = {f.rule for f in verdict_on(stage, lines).of(Severity.RACE)}
    assert {Rule.NO_WAIT, Rule.EARLY_SIGNAL} <= rules


@ENTRIES
def test_an_entry_s_signal_at_its_end_is_only_noted(stage: str) -> None:
    lines = lines_of(stage)
    signal = lines.pop(the_signal(lines))
    end = max(i for i, line in enumerate(lines) if line.strip() == "ret;")
    verdict = verdict_on(stage, [*lines[:end], signal, *lines[end:]])
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


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES])
def test_without_its_signal_a_kernel_loses_its_overlap_and_is_no_race(stage: str) -> None:
    lines = [line for line in lines_of(stage) if "launch_dependents" not in line]
    verdict = verdict_on(stage, lines)
    assert not verdict.acquitted
    assert [(f.severity, f.rule) for f in verdict.findings] == [
        (Severity.LOST_OVERLAP, Rule.NO_SIGNAL)
    ]
