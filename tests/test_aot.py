# SPDX-License-Identifier: Apache-2.0
"""The kernels compiled for sm_90 and sm_100: PDL waits, signals and their two sides, spills.

The shape is that of one rank of eight of a real model, at batches where the launch configurations
differ. Nothing here runs a kernel, no GPU is needed.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch

from graphrt.config import PdlLinks
from graphrt.kernels.ahead import chain_launches
from graphrt.kernels.assembly import (
    Instruction,
    ptx_instructions,
    resource_usage,
    sass_instructions,
    waits_at_exit,
)
from graphrt.kernels.links import stages_of
from graphrt.kernels.tuning import FusedLaunch, PrecomputeLaunch, StateUpdateLaunch, lookup
from tests.helpers.aot import recorded_launches
from tests.helpers.assembly import Access, accesses
from tests.helpers.cases import Case
from tests.helpers.rows import BF16, FP16, FP32, RANK
from tools.tune import FUSED, PRECOMPUTE, label

ALL = PdlLinks(conv1d=True, precompute=True, state_update=True)
INNER = PdlLinks(conv1d=False, precompute=True, state_update=True)
NONE = PdlLinks(conv1d=False, precompute=False, state_update=False)
ONLY_CONV1D = PdlLinks(conv1d=True, precompute=False, state_update=False)
ONLY_PRECOMPUTE = PdlLinks(conv1d=False, precompute=True, state_update=False)
ONLY_STATE_UPDATE = PdlLinks(conv1d=False, precompute=False, state_update=True)

# What the kernel before writes, and may still be writing until the wait. A state update may start
# while conv1d still runs: precompute signals before it waits itself. conv1d may follow any kernel.
WRITTEN_UPSTREAM = {
    "conv1d": {"xbc_ptr", "conv_ring_ptr", "row_cursors_ptr"},
    "precompute": {"conv_out_ptr"},
    "state_update": {
        *("conv_out_ptr", "read_c_ptr", "causal_ptr", "decay_ptr"),
        *("fold_weight_ptr", "fold_decay_ptr"),
    },
    "fused": {"conv_out_ptr"},
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
}
SMALL, LARGE = FusedLaunch(16), FusedLaunch(32, in_shared=True)


@dataclass(frozen=True)
class Built:
    """One compiled kernel and what was read from it."""

    sass: list[Instruction]
    ptx: list[Instruction]
    accesses: list[Access]
    usage: dict[str, int]
    is_linked: bool


@cache
def build(
    case: Case, links: PdlLinks, bucket: int, capability: int, fused: FusedLaunch | None = None
) -> dict[str, Built]:
    """Return the kernels of a chain, of the pair or with the fused kernel instead of it."""
    built = {}
    for stage, launch in recorded_launches(case, links, bucket, fused).items():
        compiled = launch.compile(capability)
        built[stage] = Built(
            sass_instructions(compiled),
            ptx_instructions(compiled),
            accesses(compiled, launch.arguments_left()),
            resource_usage(compiled),
            bool(launch.keywords.get("launch_pdl", False)),
        )
    assert list(built) == [stage.name for stage in stages_of(fused=fused is not None)]
    return built


def build_both(case: Case, links: PdlLinks, bucket: int, capability: int) -> dict[str, Built]:
    """Return the kernels of both chains. fused: with small tiles in the smallest bucket."""
    one = build(case, links, bucket, capability, SMALL if bucket == 1 else LARGE)
    return build(case, links, bucket, capability) | {"fused": one["fused"]}


def indices(instructions: list[Instruction], *opcodes: str) -> list[int]:
    return [i for i, instruction in enumerate(instructions) if instruction.has(*opcodes)]


CHAINS = pytest.mark.parametrize(
    ("capability", "links"),
    [
        (90, ALL),
        (100, ALL),
        (90, NONE),
        (100, NONE),
        (90, INNER),
        (90, ONLY_CONV1D),
        (90, ONLY_PRECOMPUTE),
        (90, ONLY_STATE_UPDATE),
    ],
    ids=[
        "sm_90",
        "sm_100",
        "sm_90_none",
        "sm_100_none",
        "sm_90_inner",
        "sm_90_conv1d",
        "sm_90_precompute",
        "sm_90_state_update",
    ],
)

BUCKETS = pytest.mark.parametrize(
    ("bucket", "capability"), [*((bucket, 90) for bucket in RANK.buckets), (32, 100)]
)


@CHAINS
def test_each_kernel_waits_and_signals_where_the_chain_says(
    capability: int, links: PdlLinks
) -> None:
    built = build_both(RANK, links, 32, capability)
    conv1d, first, second = links.conv1d, links.precompute, links.state_update
    expected = {  # (launched with PDL, waits, signals)
        "advance": (False, 0, int(conv1d)),
        "conv1d": (conv1d, int(conv1d), int(first)),
        "precompute": (first, int(first), int(second)),
        "state_update": (second, int(second), int(conv1d)),
        "fused": (first, int(first), int(conv1d)),
    }
    for stage, kernel in built.items():
        waits, signals = indices(kernel.sass, "ACQBULK"), indices(kernel.sass, "PREEXIT")
        assert (kernel.is_linked, len(waits), len(signals)) == expected[stage], stage


@CHAINS
def test_every_path_to_an_exit_waits_exactly_once(capability: int, links: PdlLinks) -> None:
    for stage, kernel in build_both(RANK, links, 32, capability).items():
        once = {1} if kernel.is_linked else {0}
        assert waits_at_exit(kernel.sass) == once, stage
        assert waits_at_exit(kernel.ptx) == once, stage


@pytest.mark.parametrize("capability", [90, 100])
def test_signals_come_before_anything_else_touches_memory(capability: int) -> None:
    for stage, links in (
        ("advance", ALL),
        ("conv1d", INNER),  # not linked itself: it has no wait to signal behind
        ("precompute", ALL),
        ("state_update", ALL),
        ("fused", ALL),
    ):
        sass = build_both(RANK, links, 32, capability)[stage].sass
        touching = indices(sass, "LDG", "STG", "LDGSTS", "ACQBULK")
        assert indices(sass, "PREEXIT")[0] < touching[0], stage


@BUCKETS
def test_conv1d_reads_its_weights_then_waits_then_signals_then_touches_the_rest(
    bucket: int, capability: int
) -> None:
    """Its signal tells precompute that all before conv1d has completed: only the wait knows it."""
    kernel = build(RANK, ALL, bucket, capability)["conv1d"]
    for instructions, wait, signal in (
        (kernel.sass, "ACQBULK", "PREEXIT"),
        (kernel.ptx, "griddepcontrol.wait", "griddepcontrol.launch_dependents"),
    ):
        assert [i.waits for i in instructions if i.has(signal)] == [{1}]
        (signalled,) = indices(instructions, signal)
        (waited,) = indices(instructions, wait)
        assert waited < signalled
    early = {access.argument for access in kernel.accesses if 0 in access.waits}
    assert early == {"weight_ptr", "bias_ptr"}


@pytest.mark.parametrize("capability", [90, 100])
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
    kernel = build_both(RANK, ALL, bucket, capability)[stage]
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
    kernel = build_both(RANK, ALL, bucket, capability)[stage]
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
    which flush subnormals, are the same in every configuration.
    """
    for stage, kernel in build_both(RANK, ALL, bucket, capability).items():
        contracted = [i.text for i in kernel.ptx if i.opcode == "fma.rn.f32"]
        assert not contracted, stage


def sass_bytes(instruction: Instruction) -> int:
    """Return how many bytes a thread moves."""
    widths = {".128": 16, ".64": 8, ".U16": 2, ".S16": 2, ".U8": 1}
    return next((n for suffix, n in widths.items() if suffix in instruction.opcode), 4)


DTYPES = {
    "state_fp32": RANK,
    "state_bf16": replace(RANK, state_dtype=BF16),
    "state_fp16_stochastic": replace(RANK, state_dtype=FP16, rounding="stochastic"),
}


@BUCKETS
@pytest.mark.parametrize("case", DTYPES.values(), ids=DTYPES)
def test_nothing_spills_and_the_state_moves_in_128_bits(
    case: Case, bucket: int, capability: int
) -> None:
    built = build_both(case, ALL, bucket, capability)
    for stage, kernel in built.items():
        assert not indices(kernel.sass, "LDL", "STL"), f"{stage} spills"
        assert (kernel.usage["STACK"], kernel.usage["LOCAL"]) == (0, 0), stage
    for name, waits in (("state_update", 0), ("fused", 1)):
        update = built[name]
        widths = {(a.kind, a.nbytes) for a in update.accesses if a.argument == "state_ptr"}
        assert widths == {("load", 16), ("store", 16)}
        loads = [a for a in update.accesses if a.argument == "state_ptr" and a.kind == "load"]
        sides = {a.waits for a in loads}
        assert sides == {frozenset({waits})}, f"{name} asks for the state after {sides} waits"
        wide = [i for i in update.sass if i.has("LDG.E.128", "LDGSTS.E.BYPASS.128")]
        assert len([i for i in wide if frozenset(i.waits) in sides]) >= len(loads) > 0


@pytest.mark.parametrize(("state_dim", "shared"), [(17, False), (18, True), (16, True)])
def test_a_state_waits_in_shared_memory_where_its_rows_can_be_copied(
    state_dim: int, shared: bool
) -> None:
    """cp.async copies 4 bytes or more: rows of 17 elements of 2 bytes lie at 2."""
    case = replace(RANK, state_dim=state_dim, state_dtype=FP16)
    launch = recorded_launches(case, ALL, 64)["state_update"]
    assert launch.keywords["IN_SHARED"] is shared
    found = accesses(launch.compile(90), launch.arguments_left())
    assert {a.kind for a in found if a.argument == "state_ptr"} == {"load", "store"}


@pytest.mark.parametrize("warps", [1, 4])
@pytest.mark.parametrize("stage", ["state_update", "fused"])
def test_all_have_copied_before_one_takes_from_shared_memory(stage: str, warps: int) -> None:
    """A thread takes what others have copied: each has waited for its own, then for them."""
    fused = FusedLaunch(16, warps, True) if stage == "fused" else None
    launch = replace(
        lookup(RANK.shape(), 1), state_update=StateUpdateLaunch(16, warps, True), fused=fused
    )
    config = replace(RANK, state_dtype=FP16).config("cpu")
    sass = sass_instructions(chain_launches(config, RANK.tokens, launch, ALL)[stage].compile(90))
    (copied,) = indices(sass, "DEPBAR")
    barrier = next(i for i in indices(sass, "BAR", "WARPSYNC") if i > copied)
    taken = next(i for i in indices(sass, "LDS") if i > copied)
    assert indices(sass, "LDGSTS")[-1] < copied < barrier < taken


@BUCKETS
@pytest.mark.parametrize("case", DTYPES.values(), ids=DTYPES)
def test_a_state_update_asks_for_everything_before_its_first_product(
    case: Case, bucket: int, capability: int
) -> None:
    """ptxas puts loads off where it is let: one trip to memory more for each that waits."""
    sass = build(case, ALL, bucket, capability)["state_update"].sass
    first_product = indices(sass, "HMMA")[0]
    first_store = next(i for i in indices(sass, "STG") if i > first_product)  # y, or x's ring
    loads = indices(sass, "LDG", "LDGSTS")
    assert [i for i in loads if i < first_product]
    assert not [i for i in loads if first_product < i < first_store]


@pytest.mark.parametrize("state", [FP16, FP32], ids=["fp16", "fp32"])
@pytest.mark.parametrize("choice", [one for one in PRECOMPUTE if not one.rows_ahead], ids=label)
def test_precompute_asks_for_everything_before_its_first_product(
    choice: PrecomputeLaunch, state: torch.dtype
) -> None:
    launch = replace(lookup(RANK.shape(), 1), precompute=choice)
    config = replace(RANK, state_dtype=state).config("cpu")
    precompute = chain_launches(config, RANK.tokens, launch, ALL)["precompute"]
    sass = sass_instructions(precompute.compile(90))
    assert indices(sass, "LDG")[-1] < indices(sass, "HMMA")[0]


@pytest.mark.parametrize("state", [FP16, FP32], ids=["fp16", "fp32"])
@pytest.mark.parametrize("choice", [one for one in FUSED if one], ids=label)
def test_fused_asks_for_the_state_last_and_for_everything_before_its_first_product(
    choice: FusedLaunch, state: torch.dtype
) -> None:
    """What comes from L2 would wait behind what comes from memory."""
    kernel = build(replace(RANK, state_dtype=state), ALL, 1, 90, choice)["fused"]
    sass = kernel.sass
    first_product = indices(sass, "HMMA")[0]
    late = [i for i in indices(sass, "LDG", "LDGSTS") if i > first_product]
    assert not late or choice.num_warps > 1  # B of a fold
    by_argument = [a.argument for a in kernel.accesses if a.kind == "load"]  # in PTX
    order = ("dt_ptr", "conv_out_ptr", "dt_ring_ptr", "state_ptr")
    assert sorted(order, key=by_argument.index) == list(order)
    last_new = max(i for i, name in enumerate(by_argument) if name in ("conv_out_ptr", "z_ptr"))
    assert last_new < by_argument.index("dt_ring_ptr")


@pytest.mark.parametrize(("choice", "turned"), [(SMALL, True), (FusedLaunch(16, 4, True), False)])
def test_a_fold_of_one_warp_turns_b_and_loads_none(choice: FusedLaunch, turned: bool) -> None:
    kernel = build(RANK, ALL, 1, 90, choice)["fused"]
    widths = {a.nbytes for a in kernel.accesses if a.argument == "b_ring_ptr" and a.kind == "load"}
    assert bool(indices(kernel.sass, "MOVM")) is turned
    assert widths == ({8} if turned else {8, 4})  # of the history, and of a fold


@BUCKETS
def test_a_thread_stores_columns_of_the_causal_matrix_together(
    bucket: int, capability: int
) -> None:
    """Of 16 history tokens and 8 new ones, bf16: four of the former and two of the latter."""
    found = build(RANK, ALL, bucket, capability)["precompute"].accesses
    assert {a.nbytes for a in found if a.argument == "causal_ptr"} == {8, 4}


@pytest.mark.parametrize(
    ("case", "rows_ahead", "asked"),
    [
        (RANK, 0, 0),
        (RANK, 32, 1),
        (replace(RANK, head_dim=17, state_dim=18, state_dtype=FP16), 32, 0),
    ],
    ids=["none", "rows", "in_pieces_of_16_bytes_only"],
)
def test_states_are_asked_for_before_the_wait(case: Case, rows_ahead: int, asked: int) -> None:
    found = lookup(RANK.shape(), 1)
    launch = replace(found, precompute=PrecomputeLaunch(8, 2, rows_ahead))
    precompute = chain_launches(case.config("cpu"), case.tokens, launch, ALL)["precompute"]
    sass = sass_instructions(precompute.compile(90))
    ahead = indices(sass, "UBLKPF")
    assert len(ahead) == asked
    assert all(i < indices(sass, "ACQBULK")[0] for i in ahead)


@pytest.mark.parametrize("tokens", [8, 9, 16])
def test_warps_share_a_fold_where_the_tokens_are_few(tokens: int) -> None:
    """A table's choice may serve a T that it was not searched for."""
    shared = StateUpdateLaunch(16, 4, in_shared=True, early_b=True)
    launch = replace(lookup(RANK.shape(), 1), state_update=shared)
    case = replace(DTYPES["state_fp16_stochastic"], tokens=tokens, launch_tokens=(tokens,))
    found = chain_launches(case.config("cpu"), tokens, launch, ALL)["state_update"]
    assert found.keywords["num_warps"] == (4 if tokens <= 8 else 1)
    assert found.compile(90).metadata.num_warps == found.keywords["num_warps"]


@pytest.mark.parametrize("capability", [90, 100])
def test_warps_that_share_a_state_meet_before_they_take_it(capability: int) -> None:
    found = lookup(RANK.shape(), 1)
    shared = replace(found, state_update=StateUpdateLaunch(16, 4, in_shared=True, early_b=True))
    launch = chain_launches(RANK.config("cpu"), RANK.tokens, shared, ALL)["state_update"]
    sass = sass_instructions(launch.compile(capability))
    copied, meeting = indices(sass, "LDGSTS")[-1], indices(sass, "BAR.SYNC")[0]
    waited = [i for i in indices(sass, "DEPBAR") if copied < i < meeting]  # for one's own copies
    taken = [i for i in indices(sass, "LDS") if i > copied]
    assert waited and taken and meeting < taken[0]
