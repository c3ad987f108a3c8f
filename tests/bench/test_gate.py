# SPDX-License-Identifier: Apache-2.0
"""The workload is what it says, and the gate refuses what is wrong in any way it looks at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from graphrt.bench import run
from graphrt.bench.cases import SHAPES, Case
from graphrt.bench.contender import Unavailable, convolve
from graphrt.bench.gate import GateError, check_advance, check_chain, checked_calls
from graphrt.bench.stages import (
    PAIR,
    advance_calls,
    chain_calls,
    chosen_launch,
    layer_stages,
    stage_calls,
)
from graphrt.bench.workload import Effort, Workload
from graphrt.bench.yardsticks.moves import moves
from graphrt.bench.yardsticks.read import read
from graphrt.bench.yardsticks.snapshots import (
    check_winner_copy,
    snapshot_buffer,
    snapshots,
    winner_copies,
)
from graphrt.kernels import reference

CPU = torch.device("cpu")
CASE = Case(shape=SHAPES["tiny"], batch=3)
EFFORT = replace(Effort.quick(), l2_times=0.1, calls=4, most_calls=3)
Break = Callable[[Workload, int], None]


@pytest.fixture
def work() -> Workload:
    return Workload(CASE, CPU, EFFORT)


def test_slots_rotate_and_each_call_has_its_own_cursors(work: Workload) -> None:
    assert len(work.calls) == 4
    assert work.config.slots == 9
    first = [set(call.slot_ids.tolist()) for call in work.calls]
    assert not first[0] & first[1] and not first[1] & first[2] and first[3] == first[0]
    assert work.calls[0].after.cursors.held.data_ptr() % 16 == 0
    assert work.calls[1].after.cursors.rand_seed.data_ptr() % 16 == 0
    rows = [call.after.scratch(3, CASE.tokens).row_cursors for call in work.calls]
    rows += [call.advancing.scratch(3, CASE.tokens).row_cursors for call in work.calls]
    assert len({one.data_ptr() for one in rows}) == 8
    assert all(one.data_ptr() % 16 == 0 for one in rows)
    for call, own in zip(work.calls, rows, strict=False):
        slots = call.slot_ids.long()[own[:, 6]]
        assert own[:, 0].equal(slots) and set(own[:, 6].tolist()) == {0, 1, 2}
        assert own[:, 5].equal(call.after.cursors.rand_seed[slots])
    flushed = sum(int(c.after.cursors.flushed[c.slot_ids.long()].sum()) for c in work.calls)
    assert flushed / 12 == work.flush_share
    assert any(
        bool(work.calls[i].after.cursors.flushed[work.calls[i].slot_ids.long()].any())
        for i in checked_calls(work)
    )


def test_the_chain_passes_and_leaves_the_caches_as_they_were(work: Workload) -> None:
    before = work.cache.state.clone(), work.cache.x_ring.clone()
    chain = chain_calls(work)
    assert check_chain("chain", work, lambda index: chain[index]()) < 1e-2
    assert torch.equal(before[0], work.cache.state)
    assert torch.equal(before[1], work.cache.x_ring)


def test_the_pair_passes_from_conv1ds_output(work: Workload) -> None:
    pair = stage_calls(work, PAIR)
    check_chain(
        "pair", work, lambda index: pair[index](), conv_out=lambda index: convolve(work, index)
    )


def _wrong_output(work: Workload, index: int) -> None:
    work.out[0, 0, 0] *= 1.05


def _unwritten_output(work: Workload, index: int) -> None:
    work.out[-1, -1, -1, -1] = torch.nan


def _wrong_state(work: Workload, index: int) -> None:
    work.cache.state[0, work.calls[index].slot_ids.long()] *= 1.05


def _stale_ring(work: Workload, index: int) -> None:
    work.cache.b_ring[0, work.calls[index].slot_ids.long()] *= 1.05


def _stale_conv_ring(work: Workload, index: int) -> None:
    work.cache.conv_ring[0, work.calls[index].slot_ids.long()[0]] = 0


@pytest.mark.parametrize(
    "damage", [_wrong_output, _unwritten_output, _wrong_state, _stale_ring, _stale_conv_ring]
)
def test_damage_is_refused(work: Workload, damage: Break) -> None:
    chain = chain_calls(work)

    def broken(index: int) -> None:
        chain[index]()
        damage(work, index)

    with pytest.raises(GateError):
        check_chain("chain", work, broken)


def test_a_wrong_decay_is_refused(work: Workload) -> None:
    wrong = replace(work.weights, A=work.weights.A * 1.2)
    right, work.weights = work.weights, wrong
    calls = stage_calls(work, layer_stages(chosen_launch(work)))
    work.weights = right
    with pytest.raises(GateError, match="relative error"):
        check_chain("chain", work, lambda index: calls[index]())


def test_advance_is_held_to_the_ring_rule(work: Workload) -> None:
    advance = advance_calls(work)
    check_advance(work, lambda index: advance[index]())
    with pytest.raises(GateError, match="advance"):
        check_advance(work, lambda index: None)


def test_every_launch_has_its_rows_written_by_its_own_advance(
    work: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = chain_calls(work, advance=True)
    for _ in range(2):
        work.restore()
        for call, run_call in zip(work.calls, whole, strict=True):
            rows = call.advancing.scratch(3, CASE.tokens).row_cursors
            assert rows[:, 0].eq(-1).all()
            run_call()
            assert rows.equal(call.after.scratch(3, CASE.tokens).row_cursors)
    monkeypatch.setattr(reference, "fill_row_cursors", lambda *_: None)
    advance = advance_calls(work)
    with pytest.raises(GateError, match="advance: row_cursors"):
        check_advance(work, lambda index: advance[index]())


def test_our_yardsticks_pass_and_can_fail(work: Workload) -> None:
    made = snapshots(work, EFFORT)
    assert made.check() < 1e-2
    bare = read(work, EFFORT)
    assert bare.check() < 1e-2
    work.cache.state[0, work.calls[0].slot_ids.long()[0]] = torch.nan
    with pytest.raises(GateError):
        made.check()
    with pytest.raises(GateError):
        bare.check()


def test_bytes_are_moved_by_whole_tiles_only() -> None:
    work = Workload(replace(CASE, shape=replace(CASE.shape, state_dim=18)), CPU, EFFORT)
    with pytest.raises(Unavailable, match="powers of two"):
        moves(work, EFFORT)


@pytest.mark.parametrize("lost", ["state", "x_ring", "b_ring", "dt_ring"])
def test_bytes_that_are_not_moved_are_missed(work: Workload, lost: str) -> None:
    moved = moves(work, EFFORT)
    assert moved.check() == 0.0
    cache, calls = work.calls[0].after.layer(0), moved.timed.calls
    assert isinstance(calls, list)
    whole = calls[0]

    def without() -> None:
        before = getattr(cache, lost).clone()
        whole()
        getattr(cache, lost).copy_(before)

    calls[0] = without
    with pytest.raises(GateError, match=f"moves.*{lost}"):
        moved.check()


def test_a_copy_of_the_wrong_winner_is_refused(work: Workload) -> None:
    saved = snapshot_buffer(work)
    check_winner_copy(work, saved, winner_copies(work, saved))
    work.accepted = work.accepted % work.case.tokens + 1
    late = winner_copies(work, saved)
    work.accepted = work.accepted % work.case.tokens + 1
    with pytest.raises(GateError, match="winner"):
        check_winner_copy(work, saved, late)


def test_nothing_is_timed_when_the_gate_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object, **__: object) -> float:
        raise GateError("wrong")

    monkeypatch.setattr(run, "check_chain", wrong)
    monkeypatch.setattr(run, "marginal_times", lambda *_: pytest.fail("timed"))
    found = run.bench_case(CASE, CPU, EFFORT, 1e9)
    assert found["failed"] == "GateError: wrong"
    assert found["times"] == {}


def test_numbers_that_blow_up_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_finite(work: Workload) -> None:
        work.cache.state[0, 0] = torch.inf
        check_finite(work)

    check_finite = Workload.check_finite
    monkeypatch.setattr(Workload, "check_finite", not_finite)
    found = run.bench_case(CASE, CPU, EFFORT, 1e9)
    assert "not finite" in found["failed"]
    assert found["times"] == {}


def test_a_device_that_failed_for_good_is_still_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise RuntimeError("illegal memory access")

    monkeypatch.setattr(run, "_measure", lost)
    monkeypatch.setattr(torch.cuda, "empty_cache", lost)
    found = run.bench_case(CASE, torch.device("cuda"), EFFORT, 1e9)
    assert found["failed"] == "RuntimeError: illegal memory access"
