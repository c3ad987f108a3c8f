# SPDX-License-Identifier: Apache-2.0
"""Reading PTX and tracing addresses, on small texts written by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from graphrt.capture.audit.chain import audit_kernel
from graphrt.capture.audit.links import KernelCode, chain_links
from graphrt.capture.audit.paths import NEVER, ONCE, TWICE, Paths
from graphrt.capture.audit.provenance import Access, Provenance
from graphrt.capture.audit.ptx import Module, read
from graphrt.capture.audit.verdict import Rule, Severity, Verdict
from graphrt.errors import CaptureError
from graphrt.kernels.links import StageAccess

HEAD = """
.version 8.7
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 smem[];
.global .align 4 .b8 table[4];
.extern .func (.param .b32 result) vprintf (.param .b64 format, .param .b64 values);
.visible .entry toy(
    .param .u64 .ptr .global .align 1 toy_param_0,
    .param .u64 .ptr .global .align 1 toy_param_1,
    .param .u64 toy_param_2, // a number
    .param .align 64 .b8 toy_param_3[128]
)
.reqntid 128
{
    .reg .pred %p<9>;
    .reg .b32 %r<9>;
    .reg .b64 %rd<9>;
    .loc 1 7 3 // toy.py:7:3
    ld.param.b64 %rd1, [toy_param_0];
    ld.param.b64 %rd2, [toy_param_1];
    ld.param.b64 %rd3, [toy_param_2];
"""
TAIL = """
    ret;
}
.file 1 "/somewhere/toy.py"
"""
WAIT = "griddepcontrol.wait;\n"
ARGUMENTS = ("x_ptr", "y_ptr", "size", "map")


def module(body: str) -> Module:
    return read(HEAD + body + TAIL)


def accesses(body: str) -> list[Access]:
    provenance = Provenance(module(body), module(body).kernel())
    provenance.solve()
    return provenance.accesses()


def only(body: str) -> Access:
    (access,) = accesses(body)
    return access


def verdict_on(body: str) -> Verdict:
    """Return the verdict where upstream writes x and the map's tensor, and reads y."""
    stages = (
        StageAccess("before", "before", {"y": "y"}, {"x": "x", "m": "m"}),
        StageAccess("toy", "toy", {"x_ptr": "x", "y_ptr": "y", "map": "m"}, {"y_ptr": "y"}),
    )
    code = KernelCode(HEAD + body + TAIL, ARGUMENTS)
    return audit_kernel(code, chain_links(stages, {"toy"})["toy"])


def rules(body: str) -> set[tuple[Severity, Rule]]:
    return {(finding.severity, finding.rule) for finding in verdict_on(body).findings}


# --- reading --------------------------------------------------------------------------------------


def test_a_function_is_read_with_its_parameters_lines_and_variables() -> None:
    found = module("ld.global.b32 %r1, [%rd1];")
    kernel = found.kernel()
    assert [(p.bits, p.pointer) for p in kernel.parameters] == [
        (64, True),
        (64, True),
        (64, False),
        (0, False),
    ]
    assert found.variables == {"smem": "shared", "table": "global"}
    load = kernel.instructions[3]
    assert (load.opcode, load.operands, str(load.source)) == (
        "ld.global.b32",
        ("%r1", "[%rd1]"),
        "toy.py:7",
    )
    assert (HEAD + "ld.global").splitlines()[load.ptx_line - 1].strip() == "ld.global"


@pytest.mark.parametrize(
    "loc",
    [
        ".loc 1 9 5 // toy.py:9:5 @[ caller.py:70:4 @[ kernel.py:8:1 ] ]",
        ".loc 1 9 5, function_name $L__info0, inlined_at 1 70 4",
    ],
)
def test_the_callers_of_an_inlined_line_are_read(loc: str) -> None:
    source = module(f"{loc}\nmov.u32 %r1, %tid.x;").kernel().instructions[3].source
    assert source is not None and source.line == 9
    assert source.callers[0][1] == 70
    assert "toy.py:9 (from " in str(source)


def test_statements_scopes_and_comments_are_told_apart() -> None:
    body = """
    { .reg .b32 t; mov.b32 t, 1; @!%p1 add.s32 %r2, t, /* not; here */ 1;
      call.uni (%r3),
        vprintf, (%rd1,
        %rd2); }
    $here: setp.lt.s32 %p1|%p2, %r1, 0; // bra $here;
    mov.b64 {%r1, %r2}, %rd1;"""
    found = module(body).kernel().instructions[3:-1]
    assert [" ".join(str(instruction).split()) for instruction in found] == [
        "mov.b32 t, 1",
        "@!%p1 add.s32 %r2, t, 1",
        "call.uni (%r3), vprintf, (%rd1, %rd2)",
        "setp.lt.s32 %p1|%p2, %r1, 0",
        "mov.b64 {%r1, %r2}, %rd1",
    ]


@pytest.mark.parametrize("text", [HEAD, HEAD + "mov.b32 %r1"])
def test_a_text_that_breaks_off_is_refused(text: str) -> None:
    with pytest.raises(CaptureError, match="ends inside a function"):
        read(text)


def test_the_kernel_asked_for_must_be_there() -> None:
    with pytest.raises(CaptureError, match="the PTX defines toy"):
        module("").kernel("other")
    with pytest.raises(CaptureError, match="no kernel"):
        read(".version 8.7").kernel()


# --- paths ----------------------------------------------------------------------------------------

BRANCH = "@%p1 bra $over;\n"


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        ("", NEVER),
        (WAIT, ONCE),
        (WAIT * 3, TWICE),
        (f"{BRANCH}{WAIT}$over:", NEVER | ONCE),
        (f"{BRANCH}{WAIT}bra.uni $end;\n$over: {WAIT}$end:", ONCE),
        (f"$back: {WAIT}@%p1 bra $back;", ONCE | TWICE),
        (f"$back: @%p1 bra $out;\n{WAIT}bra $back;\n$out:", NEVER | ONCE | TWICE),
        (f"@%p1 {WAIT}", NEVER | ONCE),
        (f"@%p1 bra $ok;\ntrap;\n$ok: {WAIT}", ONCE),
        (f"brx.idx %r1, $where;\n$a: {WAIT}$b:", NEVER | ONCE),
    ],
)
def test_waits_are_counted_along_every_path(body: str, counts: int) -> None:
    paths = Paths(module(body).kernel())
    assert [paths.waits[index] for index in paths.exits()] == [counts]


@pytest.mark.parametrize("last", ["mov.u32 %r1, %tid.x;", "$back: @%p1 bra $back;"])
def test_a_kernel_that_falls_off_its_end_exits_there(last: str) -> None:
    kernel = read(f"{HEAD}{last}\n}}\n").kernel()
    assert Paths(kernel).exits() == [len(kernel.instructions) - 1]


# --- provenance -----------------------------------------------------------------------------------

LOAD = "ld.global.b32 %r1, [%rd5+4];"


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ("add.s64 %rd5, %rd1, %rd3;", (0,)),
        ("shl.b64 %rd4, %rd3, 2; add.s64 %rd5, %rd4, %rd2;", (1,)),
        ("mad.wide.s32 %rd5, %r1, 4, %rd1;", (0,)),
        ("cvta.to.global.u64 %rd5, %rd2;", (1,)),
        ("ld.param::entry.b64 %rd5, [toy_param_1];", (1,)),
        ("shfl.sync.idx.b32 %rd5, %rd1, %r1, 31, -1;", (0,)),
        ("selp.b64 %rd5, %rd1, %rd2, %p1;", (0, 1)),
        ("mov.b64 {%r2, %r3}, %rd1; mov.b64 %rd5, {%r2, %r3};", (0,)),
        ("shfl.sync.idx.b32 %r2, %r3, 0, 31, -1; add.s64 %rd5, %rd1, 8;", (0,)),
        # a phi: two places write the register
        ("mov.b64 %rd5, %rd1; @%p1 bra $on; mov.b64 %rd5, %rd2; $on:", (0, 1)),
        # a loop: a pointer that moves on
        ("mov.b64 %rd5, %rd2; $back: add.s64 %rd5, %rd5, 16; @%p1 bra $back;", (1,)),
        # through shared memory, as a change of layout does
        ("st.shared.b64 [%r1], %rd1; ld.shared.b64 %rd5, [%r2];", (0,)),
        ("st.shared.v2.b64 [%r1], {%rd1, %rd2}; ld.shared.b64 %rd5, [%r2];", (0, 1)),
        # what was loaded may be an offset
        ("ld.global.b64 %rd4, [%rd2]; add.s64 %rd5, %rd1, %rd4;", (0,)),
    ],
)
def test_an_address_is_traced_to_its_arguments(body: str, arguments: tuple[int, ...]) -> None:
    access = accesses(f"{body}\n{LOAD}")[-1]
    assert access.arguments == arguments
    assert access.decided


@pytest.mark.parametrize(
    "body",
    [
        "ld.global.b64 %rd5, [%rd1];",  # a pointer from memory
        "mov.b64 %rd5, %rd3;",  # a number as a pointer
        "mov.u64 %rd5, 4096;",
        "add.s64 %rd5, %rd1, %rd2;",
        "sub.s64 %rd4, %rd2, %rd1; add.s64 %rd5, %rd1, %rd4;",
        # an address from an argument, or else one from memory
        "ld.global.b64 %rd4, [%rd2]; selp.b64 %rd5, %rd1, %rd4, %p1;",
        "selp.b64 %rd5, %rd1, 4096, %p1;",
        "ld.global.b64 %rd4, [%rd2]; mov.b64 %rd5, %rd1; @%p1 mov.b64 %rd5, %rd4;",
        "@%p1 ld.global.b64 %rd5, [%rd2]; @!%p1 mov.b64 %rd5, %rd1;",
        "ld.global.b64 %rd4, [%rd2]; st.shared.b64 [%r1], %rd1;"
        "st.shared.b64 [%r2], %rd4; ld.shared.b64 %rd5, [%r2];",
        "cp.async.ca.shared.global [%r1], [%rd2], 8; st.shared.b64 [%r1], %rd1;"
        "ld.shared.b64 %rd5, [%r2];",
        "mov.b64 {%r2, %r3}, %rd1; mov.b64 %rd5, {%r2, %r4};",
        "call.uni (%rd5), somewhere, (%rd1);\nld.shared.b64 %rd4, [%r1]; add.s64 %rd5, %rd5, %rd4;",
    ],
)
def test_an_address_that_cannot_be_decided_says_so(body: str) -> None:
    assert not accesses(f"{body}\n{LOAD}")[-1].decided
    assert (Severity.UNDECIDED, Rule.UNKNOWN_ADDRESS) in rules(f"{WAIT}{body}\n{LOAD}")


@pytest.mark.parametrize(
    ("instruction", "kind", "arguments"),
    [
        ("ld.global.L1::evict_first.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1 + 16];", "load", (0,)),
        ("ld.b32 %r1, [%rd1];", "load", (0,)),
        ("st.global.b32 [%rd2], %r1;", "store", (1,)),
        ("st.async.release.gpu.global.b32 [%rd2], %r1;", "store", (1,)),
        ("atom.global.add.u32 %r1, [%rd2], 1;", "atomic", (1,)),
        ("red.global.add.f32 [%rd2], %r1;", "atomic", (1,)),
        ("cp.async.cg.shared.global [%r1], [%rd1], 16, %r2;", "load", (0,)),
        (
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
            " [%r1], [%rd1], 64, [%r2];",
            "load",
            (0,),
        ),
        ("cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r1], 64;", "store", (1,)),
        ("cp.reduce.async.bulk.global.shared::cta.add.f32 [%rd2], [%r1], 64;", "atomic", (1,)),
        ("prefetch.global.L2 [%rd1];", "prefetch", (0,)),
        ("discard.global.L2 [%rd2], 128;", "store", (1,)),
        ("tex.1d.v4.f32.s32 {%r1, %r2, %r3, %r4}, [%rd1, {%r5}];", "unknown", (0,)),
        ("newthing.b32 %r1, [%rd1];", "unknown", (0,)),
        (
            "mov.b64 %rd4, toy_param_3;\ncp.async.bulk.tensor.2d.shared::cluster.global.mbarrier"
            "::complete_tx::bytes [%r1], [%rd4, {%r2, %r3}], [%r4];",
            "load",
            (3,),
        ),
    ],
)
def test_each_way_to_touch_global_memory_is_known(
    instruction: str, kind: str, arguments: tuple[int, ...]
) -> None:
    access = only(instruction)
    assert (access.kind.value, access.arguments) == (kind, arguments)
    assert access.decided == (kind != "unknown")


@pytest.mark.parametrize(
    "instruction",
    [
        "st.shared.v4.b32 [%r1], {%r1, %r2, %r3, %r4};",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%r5];",
        "mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0;",
        "cp.async.wait_group 0;",
        "cp.async.bulk.commit_group;",
        "tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r1}, [%r2];",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%r1}, %rd4, %rd5, 1, 1, 1, 0, 0;",
        "ld.const.b32 %r1, [%r2];",
        "mov.b64 %rd4, smem; ld.b32 %r1, [%rd4];",
        "fence.proxy.async;",
    ],
)
def test_a_block_s_own_memory_is_no_access(instruction: str) -> None:
    assert accesses(instruction) == []


def test_a_tensor_map_in_memory_may_name_any_tensor() -> None:
    copy = "cp.async.bulk.tensor.1d.global.shared::cta.bulk_group [%rd1, {%r2}], [%r1];"
    assert not only(copy).decided


# --- verdicts -------------------------------------------------------------------------------------

EARLY = (Severity.RACE, Rule.EARLY_LOAD)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"{WAIT}ld.global.b32 %r1, [%rd1];", set()),
        (f"ld.global.b32 %r1, [%rd2];\n{WAIT}", set()),  # upstream only reads y
        (f"ld.global.b32 %r1, [%rd1];\n{WAIT}", {EARLY}),
        (f"cp.async.ca.shared.global [%r1], [%rd1], 4;\n{WAIT}", {EARLY}),
        (f"st.global.b32 [%rd2], %r1;\n{WAIT}", {(Severity.RACE, Rule.EARLY_STORE)}),
        (f"atom.global.add.u32 %r1, [%rd2], 1;\n{WAIT}", {(Severity.RACE, Rule.EARLY_STORE)}),
        (
            f"selp.b64 %rd5, %rd1, %rd2, %p1;\n{LOAD}\n{WAIT}",
            {(Severity.UNDECIDED, Rule.EARLY_LOAD)},
        ),
        (f"prefetch.global.L2 [%rd1];\n{WAIT}", {(Severity.NOTE, Rule.EARLY_PREFETCH)}),
        (
            f"{WAIT}ld.global.nc.b32 %r1, [%rd1];",
            {(Severity.UNDECIDED, Rule.NON_COHERENT)},
        ),
        (f"{WAIT}call.uni somewhere, (%rd1);", {(Severity.UNDECIDED, Rule.UNKNOWN_CALL)}),
        (f"{WAIT}call.uni (%r1), vprintf, (%rd1, %rd2);", set()),
        (
            "mov.b64 %rd4, toy_param_3;\ncp.async.bulk.tensor.1d.shared::cluster.global.mbarrier"
            f"::complete_tx::bytes [%r1], [%rd4, {{%r2}}], [%r4];\n{WAIT}",
            {EARLY},
        ),
        # an index that went through shared memory: perhaps it was the stale one
        (
            f"ld.global.b32 %r1, [%rd1];\n{WAIT}st.shared.b32 [%r2], %r1;\n"
            "ld.shared.b32 %r3, [%r2];\nmad.wide.s32 %rd5, %r3, 4, %rd2;\n" + LOAD,
            {EARLY, (Severity.UNDECIDED, Rule.STALE_ADDRESS)},
        ),
        # stale by way of a predicate and of a table
        (
            f"ld.global.b32 %r1, [%rd1];\n{WAIT}setp.eq.s32 %p1, %r1, 0;\n"
            "selp.b64 %rd4, 0, 8, %p1;\nadd.s64 %rd5, %rd2, %rd4;\n" + LOAD,
            {EARLY, (Severity.RACE, Rule.STALE_ADDRESS)},
        ),
        (f"ld.global.b32 %r1, [table];\n{WAIT}", {(Severity.UNDECIDED, Rule.UNDECLARED)}),
        (f"{WAIT}st.global.b32 [%rd1], %r1;", {(Severity.UNDECIDED, Rule.UNDECLARED)}),
    ],
)
def test_verdicts(body: str, expected: set[tuple[Severity, Rule]]) -> None:
    assert rules(body) == expected


def test_code_must_have_the_parameters_that_are_named() -> None:
    stages = (StageAccess("toy", "toy", {}, {}),)
    code = KernelCode(HEAD + TAIL, (*ARGUMENTS, "one_too_many"))
    with pytest.raises(CaptureError, match="the PTX has 4 parameters"):
        audit_kernel(code, chain_links(stages, set())["toy"])


def test_links_refuse_what_no_stage_can_be() -> None:
    stages = (
        StageAccess("one", "one", {}, {}),
        StageAccess("two", "two", {}, {}, frozenset({"x_ptr"})),
    )
    with pytest.raises(CaptureError, match="linked=one"):
        chain_links(stages, {"one"})
    with pytest.raises(CaptureError, match=r"two\.older"):
        chain_links(stages, {"two"})


def test_only_a_compiled_kernel_has_code() -> None:
    with pytest.raises(CaptureError, match="kernel=int"):
        KernelCode.of(3)
    descriptor = SimpleNamespace(signature={"x": "tensordesc<fp32[64]>", "n": "i32"})
    with pytest.raises(CaptureError, match="several parameters"):
        KernelCode.of(SimpleNamespace(asm={"ptx": HEAD + TAIL}, src=descriptor))
