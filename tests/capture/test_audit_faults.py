# SPDX-License-Identifier: Apache-2.0
"""The audit convicts each planted fault, a small Triton kernel compiled here, at its line."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from triton.compiler import CompiledKernel
from triton.runtime.jit import JITFunction

from graphrt.capture.audit.chain import audit_kernel
from graphrt.capture.audit.links import KernelCode, Link, chain_links
from graphrt.capture.audit.verdict import Rule, Severity, Verdict
from graphrt.kernels.links import StageAccess
from tests.capture import faulty_kernels as kernels


def tensors(*arguments: str) -> dict[str, str]:
    return {name: name.removesuffix("_ptr") for name in arguments}


def link_of(kernel: JITFunction) -> Link:
    """Return the link of ``kernel`` between a producer that writes x and index, and a consumer."""
    name = kernel.__name__
    pointers = [argument for argument in kernel.arg_names if argument.endswith("_ptr")]
    written = ["out_ptr", *(["x_ptr"] if name == "store_before_wait" else [])]
    stages = (
        StageAccess("producer", "producer", {}, tensors("x_ptr", "index_ptr")),
        StageAccess(name, name, tensors(*pointers[:-1]), tensors(*written)),
        StageAccess("consumer", "consumer", tensors("out_ptr"), {}),
    )
    return chain_links(stages, {name, "consumer"})[name]


@cache
def compiled(kernel: JITFunction, capability: int = 90) -> CompiledKernel:
    return kernels.compile_kernel(kernel, capability)


def verdict_on(kernel: JITFunction, capability: int = 90) -> Verdict:
    return audit_kernel(KernelCode.of(compiled(kernel, capability)), link_of(kernel))


@pytest.mark.parametrize("capability", [90, 100])
def test_the_sound_kernel_is_acquitted(capability: int) -> None:
    verdict = verdict_on(kernels.sound, capability)
    assert verdict.acquitted and not verdict.findings
    assert verdict.early == ("weight_ptr",)
    assert verdict.late == ("x_ptr", "out_ptr")


# (the kernel, what is found: severity, rule, argument, the mark of its line)
FAULTS = [
    (kernels.load_before_wait, [(Severity.RACE, Rule.EARLY_LOAD, "x_ptr", "FAULT")]),
    (kernels.store_before_wait, [(Severity.RACE, Rule.EARLY_STORE, "x_ptr", "FAULT")]),
    (kernels.wait_in_one_branch, [(Severity.RACE, Rule.NO_WAIT, None, "FAULT")]),
    (kernels.return_before_wait, [(Severity.RACE, Rule.NO_WAIT, None, "FAULT")]),
    (
        kernels.loop_across_wait,
        [
            (Severity.RACE, Rule.NO_WAIT, None, "for row in"),
            (Severity.RACE, Rule.EARLY_LOAD, "x_ptr", "FAULT"),
        ],
    ),
    (kernels.no_signal, [(Severity.LOST_OVERLAP, Rule.NO_SIGNAL, None, None)]),
    (kernels.signal_in_one_branch, [(Severity.LOST_OVERLAP, Rule.NO_SIGNAL, None, "FAULT")]),
    (
        kernels.stale_index,
        [
            (Severity.RACE, Rule.EARLY_LOAD, "index_ptr", "FAULT"),
            (Severity.RACE, Rule.STALE_ADDRESS, "x_ptr", "CHASED"),
        ],
    ),
    (kernels.chased_pointer, [(Severity.UNDECIDED, Rule.UNKNOWN_ADDRESS, None, "FAULT")]),
]


@pytest.mark.parametrize(
    ("kernel", "expected"), FAULTS, ids=[kernel.__name__ for kernel, _ in FAULTS]
)
def test_each_fault_is_convicted_at_its_line_and_nothing_else(
    kernel: JITFunction, expected: list[tuple[Severity, Rule, str | None, str | None]]
) -> None:
    verdict = verdict_on(kernel)
    assert not verdict.acquitted
    found = [
        (f.severity, f.rule, f.argument, f.source.line if f.source else None)
        for f in verdict.findings
    ]
    assert found == [
        (severity, rule, argument, kernels.line_of(kernel, mark) if mark else None)
        for severity, rule, argument, mark in expected
    ]
    for finding in verdict.findings:
        assert finding.source is None or finding.source.file.endswith("faulty_kernels.py")


def test_a_late_signal_is_only_noted() -> None:
    verdict = verdict_on(kernels.signal_after_wait)
    assert verdict.acquitted
    (note,) = verdict.findings
    assert (note.severity, note.rule) == (Severity.NOTE, Rule.LATE_SIGNAL)
    assert note.source is not None
    assert note.source.line == kernels.line_of(kernels.signal_after_wait, "# late")


def test_the_compiler_really_moves_the_loop_s_loads_above_the_wait() -> None:
    """In the source they stand below it; the pipeliner puts the first copies ahead of it."""
    asm = compiled(kernels.loop_across_wait).asm
    ttgir = asm["ttgir"]
    assert 0 < ttgir.index("ttg.async_copy_global_to_local") < ttgir.index("griddepcontrol.wait")
    early = next(
        f for f in verdict_on(kernels.loop_across_wait).findings if f.rule is Rule.EARLY_LOAD
    )
    lines = asm["ptx"].splitlines()
    wait = next(i for i, line in enumerate(lines, 1) if "griddepcontrol.wait" in line)
    ahead = [number for number in early.ptx_lines if number < wait]
    assert len(ahead) >= 2
    assert all("cp.async" in lines[number - 1] for number in ahead)


def test_a_pointer_loaded_from_what_upstream_writes_is_a_race_wherever_it_is_followed() -> None:
    code = KernelCode.of(compiled(kernels.chased_pointer))
    stages = (
        StageAccess("producer", "producer", {}, tensors("table_ptr")),
        StageAccess("chase", "chased_pointer", tensors("table_ptr"), tensors("out_ptr")),
    )
    verdict = audit_kernel(code, chain_links(stages, {"chase"})["chase"])
    assert [f.rule for f in verdict.of(Severity.RACE)] == [Rule.EARLY_LOAD, Rule.STALE_ADDRESS]
    assert [f.rule for f in verdict.of(Severity.UNDECIDED)] == [Rule.UNKNOWN_ADDRESS]


def test_a_launch_that_differs_from_the_declaration_is_found() -> None:
    code = KernelCode.of(compiled(kernels.sound))
    assert code.programmatic is True
    stages = (
        StageAccess("producer", "producer", {}, tensors("x_ptr")),
        StageAccess("sound", "sound", tensors("x_ptr", "weight_ptr"), tensors("out_ptr")),
    )
    (found,) = audit_kernel(code, chain_links(stages, set())["sound"]).of(Severity.RACE)
    assert found.rule is Rule.LAUNCH
    normally = KernelCode(code.ptx, code.arguments, programmatic=False)
    verdict = audit_kernel(normally, chain_links(stages, {"sound"})["sound"])
    assert [f.rule for f in verdict.of(Severity.LOST_OVERLAP)] == [Rule.LAUNCH]


@pytest.mark.parametrize("kernel", [kernels.stale_index, kernels.loop_across_wait])
def test_the_examples_of_the_documentation_are_real(kernel: JITFunction) -> None:
    """But for lines of the PTX, which differ between releases of Triton."""
    document = Path(__file__).parents[2] / "docs" / "inspection.md"
    printed = re.sub(r" \[PTX .*\]", "", str(verdict_on(kernel)))
    assert f"```text\n{printed}\n```" in re.sub(r" \[PTX .*\]", "", document.read_text("utf-8"))
