# SPDX-License-Identifier: Apache-2.0
"""Accepted counts: every way to give them, and those that the host refuses."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from graphrt import AcceptError, ConfigError, DecodeRuntime, SlotError
from graphrt.accepting import by_slot, check_counts
from graphrt.slots import SlotTable
from tests.helpers.checks import check_same_bits
from tests.helpers.contents import WILD
from tests.helpers.runtimes import (
    Accept,
    admit,
    cached,
    captured,
    check_all_same_bits,
    decode,
    draw,
    nothing_written,
)


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


# --- every way to accept -------------------------------------------------------------------------


def directly(runtime: DecodeRuntime, rows: list[int], counts: list[int]) -> None:
    for slot, count in zip(rows, counts, strict=True):
        runtime.accepted[slot] = count


def one_by_one(runtime: DecodeRuntime, rows: list[int], counts: list[int]) -> None:
    for slot, count in zip(rows, counts, strict=True):
        runtime.accept({slot: count})


def after_others(runtime: DecodeRuntime, rows: list[int], counts: list[int]) -> None:
    """The last of several wins, whatever way they come in, out of range or not."""
    runtime.accept([3 - count for count in counts])
    runtime.accept(int32(1, 99, -99))
    directly(runtime, rows, [WILD, 0, 3])
    runtime.accept({rows[1]: 3 - counts[1]})
    runtime.accept(counts)


WAYS: dict[str, Accept] = {
    "list": lambda runtime, rows, counts: runtime.accept(counts),
    "tuple": lambda runtime, rows, counts: runtime.accept(tuple(counts)),
    "numpy": lambda runtime, rows, counts: runtime.accept(np.array(counts)),  # type: ignore[arg-type]
    "mapping": lambda runtime, rows, counts: runtime.accept(
        MappingProxyType(dict(reversed(list(zip(rows, counts, strict=True)))))
    ),
    "tensor": lambda runtime, rows, counts: runtime.accept(int32(*counts)),
    "tensor of the bucket": lambda runtime, rows, counts: runtime.accept(int32(*counts, 99)),
    "directly": directly,
    "one by one": one_by_one,
    "after others": after_others,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_way_to_accept_is_the_same(way: Accept) -> None:
    with captured() as runtime, captured() as expected:
        for one in (runtime, expected):
            assert admit(one, 5) == [0, 1, 2, 3, 4]
        rows = [4, 0, 2]
        ys = decode(expected, rows, 12, directly)
        assert expected.accepted[rows].any()
        check_all_same_bits(decode(runtime, rows, 12, way), ys)
        for name, tensor in cached(expected).items():
            check_same_bits(cached(runtime)[name], tensor, name)
        assert runtime.cache.cursors.held[rows].max() > 3


def test_counts_by_row_are_in_the_order_of_the_last_launch() -> None:
    with captured() as runtime:
        admit(runtime, 5)
        runtime.launch([1, 3])
        runtime.launch([3, 0, 1], tokens=1)
        runtime.launch([4, 1, 3])
        for counts in ([1, 2, 3], int32(1, 2, 3)):
            runtime.accepted[:5] = 0
            runtime.accept(counts)
            assert runtime.accepted[:5].tolist() == [0, 2, 0, 3, 1]


def test_a_mapping_may_name_slots_of_earlier_launches_and_leave_some_out() -> None:
    with captured() as runtime:
        a, b, c, d = admit(runtime, 4)
        runtime.launch([a, b])
        runtime.launch([c], tokens=1)
        runtime.accept({a: 3, c: 1, d: 0})  # d was never launched
        runtime.accept({})
        assert runtime.accepted[:4].tolist() == [3, 0, 1, 0]
        runtime.launch([d, c, b, a])
        assert runtime.cache.cursors.held[:4].tolist() == [3, 0, 1, 0]


def test_what_is_not_accepted_is_not_committed() -> None:
    with captured() as runtime:
        rows = admit(runtime, 2)
        inputs = draw(2, 3)
        first = runtime.launch(rows, **inputs).out.clone()
        for tokens in (3, 1, 3):
            runtime.launch(rows, tokens=tokens, **draw(2, tokens, seed=1))
        check_same_bits(runtime.launch(rows, **inputs).out, first, "y")
        cursors = runtime.cache.cursors
        for cursor in (cursors.held, cursors.ring_start, cursors.conv_pos):
            assert cursor[rows].tolist() == [0, 0]
        runtime.accept([2, 0])
        again = runtime.launch(rows, **inputs).out
        assert cursors.held[rows].tolist() == [2, 0]
        assert not torch.equal(again[0], first[0])
        check_same_bits(again[1], first[1], "y of the row that accepted 0")
        runtime.launch(rows)  # what was committed once is not committed again
        assert cursors.held[rows].tolist() == [2, 0]


# --- refused by the host -------------------------------------------------------------------------

REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "too many": ({0: 1, 1: 4}, AcceptError, r"^accepted\[1\]=4: must be 0 … 3, the tokens of"),
    "negative": ({0: 1, 1: -1}, AcceptError, r"^accepted\[1\]=-1: must be 0 … 3"),
    "more than the slot's own T": ({0: 1, 2: 2}, AcceptError, r"^accepted\[2\]=2: must be 0 … 1"),
    "never launched": ({0: 1, 3: 1}, AcceptError, r"^accepted\[3\]=1: must be 0 … 0"),
    "too many by row": ([1, 4], AcceptError, r"^accepted\[1\]=4: must be 0 … 3"),
    "negative by row": ((-1, 1), AcceptError, r"^accepted\[0\]=-1: must be 0 … 3"),
    "not admitted": ({0: 1, 4: 0}, SlotError, r"^slot=4: is not admitted"),
    "released": ({0: 1, 5: 0}, SlotError, r"^slot=5: is not admitted"),
    "out of range": ({0: 1, 6: 0}, SlotError, r"^slot=6: must be 0 … 5"),
    "padding": ({0: 1, -1: 0}, SlotError, r"^slot=-1: must be 0 … 5"),
    "no slot": ({0: 1, "1": 0}, SlotError, r"^slot='1': must be an int"),
    "a bool for a slot": ({0: 1, True: 0}, SlotError, r"^slot=True: must be an int"),
    "too few rows": ([1], AcceptError, r"^counts=1 counts: the last launch had 2 rows; "),
    "too many rows": ([1, 1, 1], AcceptError, r"^counts=3 counts: the last launch had 2 rows"),
    "no counts": ([], AcceptError, r"^counts=0 counts: the last launch had 2 rows"),
    "int64": (torch.ones(2, dtype=torch.int64), ConfigError, r"^counts=torch\.int64 \(2,\): must"),
    "floats": (torch.ones(2), ConfigError, r"^counts=torch\.float32 \(2,\): must be int32"),
    "two dimensions": (int32(1, 1)[None], ConfigError, r"^counts=torch\.int32 \(1, 2\): must be"),
    "more than the bucket": (int32(1, 1, 1), ConfigError, r"at most 2 long"),
}


@pytest.mark.parametrize(("counts", "error", "said"), REFUSED.values(), ids=REFUSED)
def test_wrong_counts_are_refused_and_none_is_written(
    counts: Any, error: type[Exception], said: str
) -> None:
    with captured() as runtime:
        admit(runtime, 6)
        runtime.release(5)
        runtime.release(4)
        runtime.launch([2], tokens=1)
        runtime.launch([0, 1])
        runtime.accept({0: 2, 1: 1})
        with nothing_written(runtime), pytest.raises(error, match=said):
            runtime.accept(counts)
        runtime.launch([0, 1])
        assert runtime.cache.cursors.held[:2].tolist() == [2, 1]


@pytest.mark.parametrize("count", [0.7, 2.5, np.float32(1.5)], ids=str)
def test_a_count_that_is_no_whole_number_is_refused(count: Any) -> None:
    with captured() as runtime:
        (slot,) = admit(runtime, 1)
        runtime.launch([slot])
        for counts in ({slot: count}, [count]):
            with nothing_written(runtime), pytest.raises(AcceptError, match="must be"):
                runtime.accept(counts)


def test_a_tensor_with_fewer_counts_than_rows_is_refused() -> None:
    with captured() as runtime:
        rows = admit(runtime, 3)
        runtime.launch(rows)
        with nothing_written(runtime), pytest.raises((AcceptError, ConfigError)):
            runtime.accept(int32(1, 1))


BY_ROW: list[Any] = [[1, 1], (1, 1), int32(1, 1)]


@pytest.mark.parametrize("counts", BY_ROW, ids=["list", "tuple", "tensor"])
def test_counts_by_row_need_a_launch_whose_slots_are_all_there(counts: Any) -> None:
    with captured() as runtime:
        a, b, c = admit(runtime, 3)
        said = r"^counts=by row: there is no launch whose rows they could belong to, or a slot of"
        with nothing_written(runtime), pytest.raises(AcceptError, match=said):
            runtime.accept(counts)
        runtime.launch([a, b])
        runtime.release(c)  # of another launch
        runtime.accept(counts)
        runtime.release(b)
        assert runtime.admit() == b
        with nothing_written(runtime), pytest.raises(AcceptError, match=said):
            runtime.accept(counts)
        runtime.accept({a: 2})
        with pytest.raises(AcceptError, match=rf"^accepted\[{b}\]=1: must be 0 … 0"):
            runtime.accept({b: 1})


# --- the rules by themselves ---------------------------------------------------------------------


def test_counts_by_row_become_counts_by_slot() -> None:
    assert by_slot((3, 0), [7, 2]) == {7: 3, 2: 0}
    assert by_slot([], []) == {}


def test_a_count_is_held_to_its_slots_last_launch() -> None:
    slots = SlotTable(3)
    a, b = slots.take(), slots.take()
    slots.launched([b], 2)
    for count in range(3):
        check_counts({a: 0, b: count}, slots)
    check_counts({}, slots)
    for wrong in ({b: 3}, {b: -1}, {a: 1}):
        with pytest.raises(AcceptError):
            check_counts(wrong, slots)
    with pytest.raises(SlotError):
        check_counts({2: 0}, slots)
