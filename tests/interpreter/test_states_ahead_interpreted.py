# SPDX-License-Identifier: Apache-2.0
"""Which bytes precompute asks for in L2: the states of a launch's first rows, each once."""

from dataclasses import replace
from typing import Any

import pytest

from graphrt.kernels import chain, precompute
from graphrt.kernels.tuning import (
    ChainLaunch,
    Conv1dLaunch,
    PrecomputeLaunch,
    StateUpdateLaunch,
)
from tests.helpers.mirror import MirroredDriver
from tests.helpers.rows import TINY

# Three heads a group, two a program: the second program of a group has one of its own.
CASE = replace(TINY, heads=6, groups=2, buckets=(4,), slots=5)


@pytest.mark.parametrize("rows_ahead", [0, 3, 32])
def test_the_first_rows_states_are_asked_for(
    rows_ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = ChainLaunch(
        Conv1dLaunch(64, 1),
        PrecomputeLaunch(2, 2, rows_ahead),
        StateUpdateLaunch(16),
        "default",
    )
    asked: list[tuple[int, int]] = []

    def ask_for_in_l2(pointer: Any, size: Any) -> None:
        asked.append((int(pointer.handle.data.item()), int(size.handle.data.item())))

    monkeypatch.setattr(chain, "lookup", lambda shape, rows, **_: launch)
    monkeypatch.setattr(precompute, "ask_for_in_l2", ask_for_in_l2)
    driver = MirroredDriver(CASE)
    rows_asked = rows_left_out = 0
    for _ in range(8):
        asked.clear()
        driver.run(1)
        state = driver.cache.state  # [layers, slots, H, P, N]
        slots = driver.cache.scratch(4, CASE.tokens).row_cursors[:, 0].tolist()
        live = [slot for slot in slots[:rows_ahead] if slot >= 0]
        rows_asked += len(live)
        rows_left_out += sum(slot >= 0 for slot in slots[rows_ahead:])
        head = state[0, 0, 0].numel() * state.element_size()
        found = [at for begin, size in asked for at in range(begin, begin + size, head)]
        expected = [
            state[layer, slot, h].data_ptr()
            for layer in range(CASE.layers)
            for slot in live
            for h in range(CASE.heads)
        ]
        assert all(size % head == 0 for _, size in asked)
        assert sorted(found) == sorted(expected)
    assert bool(rows_asked) == (rows_ahead > 0) and bool(rows_left_out) == (rows_ahead < 32)
