# SPDX-License-Identifier: Apache-2.0
"""The kernels compiled: what is asked for when, how wide, and where it waits. No GPU is needed."""

from dataclasses import replace

import pytest
import torch

from graphrt.kernels.ahead import chain_launches
from graphrt.kernels.assembly import sass_instructions
from graphrt.kernels.tuning import FusedLaunch, PrecomputeLaunch, StateUpdateLaunch, lookup
from tests.helpers.aot import recorded_launches
from tests.helpers.assembly import accesses
from tests.helpers.built import BUCKETS, SMALL, build, build_all, indices
from tests.helpers.cases import Case
from tests.helpers.links import ALL
from tests.helpers.rows import BF16, FP16, FP32, RANK
from tools.tune import FUSED, PRECOMPUTE, SINGLE, label

STOCHASTIC = replace(RANK, state_dtype=FP16, rounding="stochastic")
STATES = pytest.mark.parametrize(
    "case",
    [RANK, replace(RANK, state_dtype=BF16), STOCHASTIC],
    ids=["state_fp32", "state_bf16", "state_fp16_stochastic"],
)


@BUCKETS
@STATES
def test_nothing_spills_and_the_state_moves_in_128_bits(
    case: Case, bucket: int, capability: int
) -> None:
    built = build_all(case, ALL, bucket, capability)
    for stage, kernel in built.items():
        assert not indices(kernel.sass, "LDL", "STL"), f"{stage} spills"
        assert (kernel.usage["STACK"], kernel.usage["LOCAL"]) == (0, 0), stage
    for name, waits in (("state_update", 0), ("fused", 1), ("single", 1), ("single_next", 0)):
        update = built[name]
        widths = {(a.kind, a.nbytes) for a in update.accesses if a.argument == "state_ptr"}
        assert widths == {("load", 16), ("store", 16)}
        loads = [a for a in update.accesses if a.argument == "state_ptr" and a.kind == "load"]
        sides = {a.waits for a in loads}
        assert sides == {frozenset({waits})}, f"{name} asks for the state after {sides} waits"
        wide = [i for i in update.sass if i.has("LDG.E.LTC128B.128", "LDGSTS.E.BYPASS.LTC128B.128")]
        assert len([i for i in wide if frozenset(i.waits) in sides]) >= len(loads) > 0


@BUCKETS
@STATES
def test_every_load_of_a_layer_has_l2_fetch_whole_lines(
    case: Case, bucket: int, capability: int
) -> None:
    built = build_all(case, ALL, bucket, capability)
    for stage in built.keys() - {"advance"}:
        loads = [i.opcode for i in built[stage].sass if i.has("LDG", "LDGSTS")]
        assert loads and all("LTC128B" in opcode.split(".") for opcode in loads), stage


@pytest.mark.parametrize(("launch", "asked"), [((32, 1, True), 1), ((16, 2, False), 0)], ids=str)
def test_cursors_of_a_later_row_are_asked_for_where_a_state_waits_in_shared_memory(
    launch: tuple[int, int, bool], asked: int
) -> None:
    choice = replace(lookup(RANK.shape(), 1), single=None, fused=FusedLaunch(*launch))
    config = replace(RANK, state_dtype=FP16).config("cpu")
    fused = chain_launches(config, RANK.tokens, choice, ALL)["fused"]
    lines = fused.compile(90).asm["ptx"].splitlines()
    found = [line for line in lines if "prefetch.global.L2" in line]
    assert len(found) == asked and all("@first" in line for line in found)


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


@pytest.mark.parametrize("capability", [90, 100])
@pytest.mark.parametrize("state", [FP16, FP32], ids=["fp16", "fp32"])
@pytest.mark.parametrize("warps", [1, 4])
@pytest.mark.parametrize("stage", ["state_update", "fused"])
def test_all_have_copied_a_state_before_one_takes_it(
    stage: str, warps: int, state: torch.dtype, capability: int
) -> None:
    """A thread takes what others have copied: each has waited for its own, then for them."""
    launch = replace(
        lookup(RANK.shape(), 1),
        state_update=StateUpdateLaunch(16, warps, in_shared=True, early_b=True),
        fused=FusedLaunch(16 * warps, warps, in_shared=True) if stage == "fused" else None,
    )
    config = replace(RANK, state_dtype=state).config("cpu")
    kernel = chain_launches(config, RANK.tokens, launch, ALL)[stage]
    sass = sass_instructions(kernel.compile(capability))
    (copied,) = indices(sass, "DEPBAR")
    meeting = next(i for i in indices(sass, "BAR", "WARPSYNC") if i > copied)
    taken = next(i for i in indices(sass, "LDS") if i > copied)
    assert indices(sass, "LDGSTS")[-1] < copied < meeting < taken


@pytest.mark.parametrize("state", [FP16, FP32], ids=["fp16", "fp32"])
@pytest.mark.parametrize(("stage", "warps"), [("state_update", 1), ("fused", 1), ("fused", 2)])
def test_all_have_put_what_a_flush_stores_before_one_takes_it(
    stage: str, warps: int, state: torch.dtype
) -> None:
    """Whole lines are stored by others than those who folded them."""
    launch = replace(
        lookup(RANK.shape(), 1),
        state_update=StateUpdateLaunch(32, in_shared=True, early_b=True),
        fused=FusedLaunch(32 * warps, warps, in_shared=True) if stage == "fused" else None,
    )
    config = replace(RANK, state_dtype=state).config("cpu")
    kernel = chain_launches(config, RANK.tokens, launch, ALL)[stage]
    sass = sass_instructions(kernel.compile(90))
    put = indices(sass, "STS.128")[-1]
    taken = next(i for i in indices(sass, "LDS") if i > put)
    meetings = [i for i in indices(sass, "BAR", "WARPSYNC") if put < i < taken]
    assert meetings and indices(sass, "STG")[-1] > taken


@BUCKETS
@STATES
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
    assert not [i for i in indices(sass, "LDG", "LDGSTS") if i > first_product]
    by_argument = [a.argument for a in kernel.accesses if a.kind == "load"]  # in PTX
    order = ("dt_ptr", "conv_out_ptr", "dt_ring_ptr", "state_ptr")
    assert sorted(order, key=by_argument.index) == list(order)
    last_new = max(i for i, name in enumerate(by_argument) if name in ("conv_out_ptr", "z_ptr"))
    assert last_new < by_argument.index("dt_ring_ptr")
    if choice.in_shared:  # in SASS: the first copy of a state comes behind all other loads
        copies = indices(sass, "LDGSTS")
        assert not [i for i in indices(sass, "LDG") if copies[0] < i < first_product]


@pytest.mark.parametrize("state", [FP16, FP32], ids=["fp16", "fp32"])
@pytest.mark.parametrize("choice", [one for one in SINGLE if one], ids=label)
def test_single_asks_for_everything_before_it_convolves_and_for_inputs_before_caches(
    choice: FusedLaunch, state: torch.dtype
) -> None:
    """Behind another layer the caches were asked for before the wait."""
    built = build(replace(RANK, state_dtype=state), ALL, 1, 90, single=choice)
    for stage, order in (
        ("single", ("dt_ptr", "xbc_ptr", "conv_ring_ptr", "dt_ring_ptr", "state_ptr")),
        ("single_next", ("conv_ring_ptr", "dt_ring_ptr", "state_ptr", "dt_ptr", "xbc_ptr")),
    ):
        kernel = built[stage]
        first_product = indices(kernel.sass, "HMMA")[0]
        late = [i for i in indices(kernel.sass, "LDG", "LDGSTS") if i > first_product]
        assert not late, stage
        by_argument = [a.argument for a in kernel.accesses if a.kind == "load"]  # in PTX
        assert sorted(order, key=by_argument.index) == list(order), stage


@pytest.mark.parametrize("choice", [SMALL, FusedLaunch(64, 4, in_shared=True)], ids=label)
def test_a_fold_turns_b_and_loads_none(choice: FusedLaunch) -> None:
    kernel = build(RANK, ALL, 1, 90, choice)["fused"]
    widths = {a.nbytes for a in kernel.accesses if a.argument == "b_ring_ptr" and a.kind == "load"}
    of_x = 6  # of 8 x 8: two tiles of 8 rows of P, the history's two of tokens and the new one
    of_y_and_z = 4  # where rows of P are its products' rows, those two tiles' new tokens
    of_b = 32
    assert len(indices(kernel.sass, "MOVM")) == of_x + of_y_and_z + of_b
    assert widths == {8}


@pytest.mark.parametrize(("rounding", "nbytes"), [("nearest", 8), ("stochastic", 4)])
def test_x_is_loaded_as_y_is_stored_where_it_is_turned(rounding: str, nbytes: int) -> None:
    case = replace(RANK, state_dtype=FP16, rounding=rounding)
    kernel = build(case, ALL, 1, 90, SMALL)["fused"]
    loads = [a.nbytes for a in kernel.accesses if a.argument == "x_ring_ptr" and a.kind == "load"]
    assert loads == [nbytes] * (2 * 8 // nbytes)


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
    case = replace(STOCHASTIC, tokens=tokens, launch_tokens=(tokens,))
    found = chain_launches(case.config("cpu"), tokens, launch, ALL)["state_update"]
    assert found.keywords["num_warps"] == (4 if tokens <= 8 else 1)
    assert found.compile(90).metadata.num_warps == found.keywords["num_warps"]
