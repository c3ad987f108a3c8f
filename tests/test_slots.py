# SPDX-License-Identifier: Apache-2.0
"""SlotTable: which slot is given next, and which slots may be used."""

from __future__ import annotations

import random
from typing import Any

import pytest

from graphrt.errors import SlotError
from graphrt.slots import SlotTable


def test_the_lowest_free_slot_is_given_first() -> None:
    table = SlotTable(4)
    assert [table.take() for _ in range(4)] == [0, 1, 2, 3]
    for slot in (2, 0, 3):
        table.give_back(slot)
    assert [table.take() for _ in range(3)] == [0, 2, 3]


def test_a_taken_slot_is_in_the_table_until_it_is_given_back() -> None:
    table = SlotTable(2)
    assert 0 not in table
    slot = table.take()
    assert slot in table and 1 not in table
    table.give_back(slot)
    assert slot not in table


def test_the_last_tokens_are_those_of_the_slots_own_last_launch() -> None:
    table = SlotTable(3)
    a, b, c = (table.take() for _ in range(3))
    assert [table.last_tokens(slot) for slot in (a, b, c)] == [0, 0, 0]
    table.launched([c, a], 5)
    table.launched((a,), 2)
    assert [table.last_tokens(slot) for slot in (a, b, c)] == [2, 0, 5]
    table.give_back(c)
    assert table.take() == c
    assert table.last_tokens(c) == 0


def test_when_all_are_taken_no_slot_is_given() -> None:
    table = SlotTable(2)
    table.take(), table.take()
    for _ in range(2):
        with pytest.raises(SlotError, match=r"^slots=2: every slot is admitted; release one first"):
            table.take()
    table.give_back(1)
    assert table.take() == 1


WRONG: list[tuple[Any, str]] = [
    (True, r"^slot=True: must be an int; pass what admit\(\) returned$"),
    (False, r"^slot=False: must be an int; "),
    (0.0, r"^slot=0\.0: must be an int; "),
    ("0", r"^slot='0': must be an int; "),
    (None, r"^slot=None: must be an int; "),
    (-1, r"^slot=-1: must be 0 … 2; pass what admit\(\) returned$"),
    (3, r"^slot=3: must be 0 … 2; "),
    (2, r"^slot=2: is not admitted; admit\(\) it before using it$"),
]


@pytest.mark.parametrize(("slot", "said"), WRONG, ids=[repr(slot) for slot, _ in WRONG])
def test_a_wrong_slot_is_refused_and_nothing_changes(slot: Any, said: str) -> None:
    table = SlotTable(3)
    table.take(), table.take()
    table.launched([0], 3)
    for refused in ([slot], [0, slot], [slot, 1]):
        with pytest.raises(SlotError, match=said):
            table.check(refused)
    with pytest.raises(SlotError, match=said):
        table.give_back(slot)
    assert table.last_tokens(0) == 3
    assert table.take() == 2


def test_a_slot_may_be_named_once() -> None:
    table = SlotTable(3)
    for _ in range(3):
        table.take()
    table.check([2, 0, 1])
    table.check(())
    for rows, twice in [([1, 1], 1), ([0, 2, 1, 2], 2), ((1, 0, 0, 1), 1)]:
        with pytest.raises(SlotError, match=rf"^slot={twice}: is named twice in one launch; "):
            table.check(rows)


def test_giving_back_twice_is_refused() -> None:
    table = SlotTable(2)
    slot = table.take()
    table.give_back(slot)
    with pytest.raises(SlotError, match=r"is not admitted"):
        table.give_back(slot)
    assert [table.take(), table.take()] == [0, 1]  # it did not come in twice


def test_a_long_life_against_a_set() -> None:
    rng = random.Random(0)
    table, taken = SlotTable(8), dict[int, int]()
    for _ in range(2000):
        if taken and rng.random() < 0.45:
            slot = rng.choice(sorted(taken))
            table.give_back(slot)
            del taken[slot]
        elif len(taken) < 8:
            slot = table.take()
            assert slot == min(set(range(8)) - set(taken))
            taken[slot] = 0
        rows = rng.sample(sorted(taken), rng.randint(0, len(taken)))
        table.check(rows)
        tokens = rng.randint(1, 5)
        table.launched(rows, tokens)
        taken.update(dict.fromkeys(rows, tokens))
        for slot in range(8):
            assert (slot in table) == (slot in taken)
            if slot in taken:
                assert table.last_tokens(slot) == taken[slot]
