# SPDX-License-Identifier: Apache-2.0
"""Kernels whose loads fetch whole lines: what of their PTX changes, and what compiles them."""

import threading
from collections import defaultdict
from typing import Any

import pytest
import triton
import triton.language as tl
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from graphrt.kernels.settled import compiler_of
from graphrt.kernels.whole_lines import by_lines, compile_by_lines, whole_lines

SM_90 = GPUTarget("cuda", 90, 32)


@pytest.fixture(autouse=True)
def _compiled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile anew: what Triton's cache has of a source names the folder where that once lay."""
    monkeypatch.setattr(knobs.compilation, "always_compile", True)


@triton.jit
def _copy_kernel(source_ptr, target_ptr):
    tl.store(target_ptr + tl.arange(0, 32), tl.load(source_ptr + tl.arange(0, 32)))


def source_of(kernel: JITFunction) -> ASTSource:
    return ASTSource(kernel, {"source_ptr": "*fp32", "target_ptr": "*fp32"}, {}, {})


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("ld.global.b32 %r1, [%rd1];", "ld.global.L2::128B.b32 %r1, [%rd1];"),
        ("@%p1 ld.global.v4.b32 {%r1}, [%rd1];", "@%p1 ld.global.L2::128B.v4.b32 {%r1}, [%rd1];"),
        ("\tld.global.b16\t%rs1, [%rd1];", "\tld.global.L2::128B.b16\t%rs1, [%rd1];"),
        (
            "cp.async.cg.shared.global [ %r1 ], [ %rd1 ], 0x10;",
            "cp.async.cg.shared.global.L2::128B [ %r1 ], [ %rd1 ], 0x10;",
        ),
        (
            "cp.async.ca.shared.global [ %r1 ], [ %rd1 ], 0x4;",
            "cp.async.ca.shared.global.L2::128B [ %r1 ], [ %rd1 ], 0x4;",
        ),
    ],
)
def test_a_load_without_hints_is_given_the_prefetch_size(was: str, now: str) -> None:
    assert by_lines(was) == now
    assert by_lines(now) == now


@pytest.mark.parametrize(
    "instruction",
    [
        "ld.global.cg.b32 %r1, [%rd1];",
        "ld.global.nc.v4.b32 {%r1}, [%rd1];",
        "ld.global.L1::evict_first.b32 %r1, [%rd1];",
        "ld.shared.b32 %r1, [%r2];",
        "ld.param.b64 %rd1, [kernel_param_0];",
        "st.global.v4.b32 [%rd1], {%r1};",
        "cp.async.commit_group;",
        "cp.async.bulk.prefetch.L2.global [%rd1], %r1;",
        "cp.async.cg.shared.global.L2::256B [%r1], [%rd1], 16;",
    ],
)
def test_nothing_else_is_changed(instruction: str) -> None:
    assert by_lines(instruction) == instruction


def test_only_a_marked_kernel_is_compiled_so() -> None:
    marked = whole_lines(JITFunction(_copy_kernel.fn))
    assert compiler_of(_copy_kernel) is triton.compile
    assert compiler_of(marked) is compile_by_lines
    plain = compiler_of(_copy_kernel)(source_of(_copy_kernel), target=SM_90)
    changed = compiler_of(marked)(source_of(marked), target=SM_90)
    assert "L2::128B" not in plain.asm["ptx"]
    assert changed.asm["ptx"] == by_lines(plain.asm["ptx"]) != plain.asm["ptx"]
    assert changed.hash != plain.hash, "both would be one entry of Triton's cache"


def test_a_launch_compiles_so_too() -> None:
    """A launch asks ``device_caches`` for what its GPU needs, which sets what it compiles with."""
    kernel = JITFunction(_copy_kernel.fn)

    def prepare() -> str:
        kernel.compile = triton.compile
        return "caches"

    kernel.device_caches = defaultdict(prepare)
    whole_lines(kernel)
    assert kernel.device_caches[0] == "caches"
    assert kernel.compile is compile_by_lines


def test_a_hook_that_is_there_is_asked_too_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def hook(*given: Any) -> tuple[str, str]:
        asked.append(len(given))
        return "theirs", "theirs"

    monkeypatch.setattr(knobs.runtime, "add_stages_inspection_hook", hook)
    compiled = compile_by_lines(source_of(_copy_kernel), target=SM_90)
    assert "L2::128B" in compiled.asm["ptx"]
    assert asked and knobs.runtime.add_stages_inspection_hook is hook


def test_the_hook_is_gone_when_a_compilation_fails() -> None:
    before = knobs.runtime.add_stages_inspection_hook
    with pytest.raises(AssertionError, match="GPUTarget"):
        compile_by_lines(source_of(_copy_kernel), target="sm_90")
    assert knobs.runtime.add_stages_inspection_hook is before


def test_what_another_thread_compiles_meanwhile_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[str] = []

    def elsewhere() -> None:
        source = ASTSource(_copy_kernel, {"source_ptr": "*i32", "target_ptr": "*i32"}, {}, {})
        found.append(triton.compile(source, target=SM_90).asm["ptx"])

    def hook(*given: Any) -> tuple[str, str]:
        if given and not found:
            found.append("")
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
        return "", ""

    monkeypatch.setattr(knobs.runtime, "add_stages_inspection_hook", hook)
    source = ASTSource(_copy_kernel, {"source_ptr": "*fp16", "target_ptr": "*fp16"}, {}, {})
    assert "L2::128B" in compile_by_lines(source, target=SM_90).asm["ptx"]
    assert "ld.global" in found[1] and "L2::128B" not in found[1]


def test_a_hook_may_compile_a_marked_kernel_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []

    def hook(*given: Any) -> tuple[str, str]:
        if given and not found:
            found.append("")
            source = ASTSource(_copy_kernel, {"source_ptr": "*i32", "target_ptr": "*i32"}, {}, {})
            found.append(compile_by_lines(source, target=SM_90).asm["ptx"])
        return "", ""

    monkeypatch.setattr(knobs.runtime, "add_stages_inspection_hook", hook)
    outer = compile_by_lines(source_of(_copy_kernel), target=SM_90).asm["ptx"]
    assert [text.count("L2::128B") for text in (outer, found[1])] == [1, 1]
