# SPDX-License-Identifier: Apache-2.0
"""The kernels compiled for sm_90 and sm_100: PDL waits, signals and what is on their two sides.

The shape is that of one rank of eight of a real model, at batches where the launch configurations
differ. Nothing here runs a kernel, no GPU is needed.
"""

from collections import Counter

import pytest

from graphrt.config import PdlLinks
from graphrt.kernels.assembly import Instruction, waits_at_exit
from tests.helpers.built import BUCKETS, build, build_all, indices, on_one_worker
from tests.helpers.links import (
    ALL,
    INNER,
    NONE,
    ONLY_CONV1D,
    ONLY_PRECOMPUTE,
    ONLY_STATE_UPDATE,
)
from tests.helpers.rows import RANK

# What the kernel before writes, and may still be writing until the wait. A state update may start
# while conv1d still runs: precompute signals before it waits itself. conv1d may follow any kernel.
SINGLE_CACHES = ("state_ptr", "x_ring_ptr", "b_ring_ptr", "dt_ring_ptr", "conv_ring_ptr")
WRITTEN_UPSTREAM = {
    "conv1d": {"xbc_ptr", "conv_ring_ptr", "row_cursors_ptr"},
    "precompute": {"conv_out_ptr"},
    "state_update": {
        *("conv_out_ptr", "read_c_ptr", "causal_ptr", "decay_ptr"),
        *("fold_weight_ptr", "fold_decay_ptr"),
    },
    "fused": {"conv_out_ptr"},
    "single": {"xbc_ptr", "dt_ptr", "z_ptr", *SINGLE_CACHES, "row_cursors_ptr"},
    "single_next": {"xbc_ptr", "dt_ptr", "z_ptr"},
}
# What the kernels before may still be reading until the wait, other rows of it or these.
READ_UPSTREAM = {
    "conv1d": {"conv_ring_ptr", "conv_out_ptr"},
    "precompute": {"conv_out_ptr"},
    "state_update": {
        *("conv_out_ptr", "read_c_ptr", "causal_ptr", "decay_ptr"),
        *("fold_weight_ptr", "fold_decay_ptr", "b_ring_ptr"),
    },
    "fused": {"conv_out_ptr"},
    "single": {*SINGLE_CACHES, "out_ptr"},
    "single_next": {*SINGLE_CACHES, "out_ptr"},
}
CHAINS = pytest.mark.parametrize(
    ("capability", "links"),
    [
        pytest.param(capability, links, id=name, marks=on_one_worker(32, capability, links))
        for name, capability, links in (
            ("sm_90", 90, ALL),
            ("sm_100", 100, ALL),
            ("sm_90_none", 90, NONE),
            ("sm_100_none", 100, NONE),
            ("sm_90_inner", 90, INNER),
            ("sm_90_conv1d", 90, ONLY_CONV1D),
            ("sm_90_precompute", 90, ONLY_PRECOMPUTE),
            ("sm_90_state_update", 90, ONLY_STATE_UPDATE),
        )
    ],
)

TARGETS = pytest.mark.parametrize(
    "capability", [pytest.param(one, marks=on_one_worker(32, one)) for one in (90, 100)]
)


@CHAINS
def test_each_kernel_waits_and_signals_where_the_chain_says(
    capability: int, links: PdlLinks
) -> None:
    built = build_all(RANK, links, 32, capability)
    conv1d, first, second = links.conv1d, links.precompute, links.state_update
    expected = {  # (launched with PDL, waits, signals)
        "advance": (False, 0, int(conv1d)),
        "conv1d": (conv1d, int(conv1d), int(first)),
        "precompute": (first, int(first), int(second)),
        "state_update": (second, int(second), int(conv1d)),
        "fused": (first, int(first), int(conv1d)),
        "single": (conv1d, int(conv1d), int(conv1d)),
        "single_next": (conv1d, int(conv1d), int(conv1d)),
    }
    for stage, kernel in built.items():
        waits, signals = indices(kernel.sass, "ACQBULK"), indices(kernel.sass, "PREEXIT")
        assert (kernel.is_linked, len(waits), len(signals)) == expected[stage], stage


@CHAINS
def test_every_path_to_an_exit_waits_exactly_once(capability: int, links: PdlLinks) -> None:
    for stage, kernel in build_all(RANK, links, 32, capability).items():
        once = {1} if kernel.is_linked else {0}
        assert waits_at_exit(kernel.sass) == once, stage
        assert waits_at_exit(kernel.ptx) == once, stage


@TARGETS
def test_signals_come_before_anything_else_touches_memory(capability: int) -> None:
    for stage, links in (
        ("advance", ALL),
        ("conv1d", INNER),  # not linked itself: it has no wait to signal behind
        ("precompute", ALL),
        ("state_update", ALL),
        ("fused", ALL),
    ):
        sass = build_all(RANK, links, 32, capability)[stage].sass
        touching = indices(sass, "LDG", "STG", "LDGSTS", "ACQBULK")
        assert indices(sass, "PREEXIT")[0] < touching[0], stage


CONV_WEIGHTS = {"weight_ptr", "bias_ptr"}
WEIGHTS = {"conv_weight_ptr", "conv_bias_ptr", "A_ptr", "dt_bias_ptr", "D_ptr"}


@BUCKETS
@pytest.mark.parametrize(
    ("stage", "first"),
    [
        ("conv1d", CONV_WEIGHTS),
        ("single", WEIGHTS),
        ("single_next", {*WEIGHTS, *SINGLE_CACHES, "row_cursors_ptr"}),
    ],
    ids=["conv1d", "single", "single_next"],
)
def test_an_entry_reads_what_is_there_then_waits_then_signals_then_touches_the_rest(
    stage: str, first: set[str], bucket: int, capability: int
) -> None:
    """Its signal tells the next kernel that all before it has completed: only the wait knows it."""
    kernel = build_all(RANK, ALL, bucket, capability)[stage]
    for instructions, wait, signal in (
        (kernel.sass, "ACQBULK", "PREEXIT"),
        (kernel.ptx, "griddepcontrol.wait", "griddepcontrol.launch_dependents"),
    ):
        assert [i.waits for i in instructions if i.has(signal)] == [{1}]
        (signalled,) = indices(instructions, signal)
        (waited,) = indices(instructions, wait)
        assert waited < signalled
    early = {access.argument for access in kernel.accesses if 0 in access.waits}
    assert early == first


@TARGETS
def test_advance_leaves_no_cursor_in_l1(capability: int) -> None:
    loads = [
        i.opcode for i in build(RANK, ALL, 32, capability)["advance"].ptx if i.has("ld.global")
    ]
    assert len(loads) >= 8
    assert sum(".cg" not in opcode for opcode in loads) <= 1, "slot_ids, which it does not write"


@BUCKETS
@pytest.mark.parametrize("stage", WRITTEN_UPSTREAM)
def test_what_upstream_writes_is_touched_only_after_the_wait(
    stage: str, bucket: int, capability: int
) -> None:
    kernel = build_all(RANK, ALL, bucket, capability)[stage]
    seen = {access.argument for access in kernel.accesses if access.kind == "load"}
    assert WRITTEN_UPSTREAM[stage] <= seen, "the test looks at tensors the kernel does not read"
    for access in kernel.accesses:
        upstream = WRITTEN_UPSTREAM if access.kind == "load" else READ_UPSTREAM
        if access.argument in upstream[stage]:
            assert access.waits == {1}, access


@BUCKETS
@pytest.mark.parametrize("stage", WRITTEN_UPSTREAM)
def test_ptxas_moves_no_load_or_store_across_the_wait(
    stage: str, bucket: int, capability: int
) -> None:
    """PTX names the arguments, SASS is what runs: neither side of the wait has gained an access.

    ptxas may drop accesses, the second of two equal loads, so there can be fewer. Of a whole number
    that the kernel casts to 32 bits it loads the lower half alone.
    """
    kernel = build_all(RANK, ALL, bucket, capability)[stage]
    in_ptx = Counter((a.kind, a.nbytes, a.waits) for a in kernel.accesses)
    in_sass = Counter(
        ("store" if i.has("STG") else "load", sass_bytes(i), frozenset(i.waits))
        for i in kernel.sass
        if i.has("LDG", "STG", "LDGSTS")
    )
    halved = Counter(
        {
            (kind, 4, waits): count
            for (kind, nbytes, waits), count in (in_ptx - in_sass).items()
            if (kind, nbytes) == ("load", 8)
        }
    )
    gained = in_sass - in_ptx - halved
    assert not gained, gained
    assert {waits for _, _, waits in in_sass} == {frozenset({0}), frozenset({1})}


@BUCKETS
def test_no_multiplication_and_addition_become_one(bucket: int, capability: int) -> None:
    """A compiler contracts by layout, and a row would differ in its last bit between buckets.

    Seen on an H200 in fp32: two launch configurations, 27 of 768 outputs. Those of the logarithm,
    which flush subnormals, are the same in every configuration. A fold asks for one by itself for
    every element of the state: so many there are, and not one more.
    """
    folding = 0
    for stage, kernel in build_all(RANK, ALL, bucket, capability).items():
        sizes, wanted = kernel.keywords, 0
        if "BLOCK_P" in sizes:  # it has a tile of the state
            wanted = sizes["BLOCK_P"] * sizes["BLOCK_N"] // (32 * sizes["num_warps"])
            folding += 1
        assert sum(i.opcode == "fma.rn.f32" for i in kernel.ptx) == wanted, stage
    assert folding == 4


def sass_bytes(instruction: Instruction) -> int:
    """Return how many bytes a thread moves."""
    widths = {".128": 16, ".64": 8, ".U16": 2, ".S16": 2, ".U8": 1}
    return next((n for suffix, n in widths.items() if suffix in instruction.opcode), 4)
