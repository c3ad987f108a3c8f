# SPDX-License-Identifier: Apache-2.0
"""Which rows' cursors the fused kernel asks for in L2: each later row's once, none beyond."""

from dataclasses import replace
from typing import Any

import pytest
import triton.language as tl

from graphrt.kernels import chain, row_cursors
from graphrt.kernels.tuning import (
    ChainLaunch,
    Conv1dLaunch,
    FusedLaunch,
    PrecomputeLaunch,
    StateUpdateLaunch,
)
from tests.helpers.mirror import MirroredDriver
from tests.helpers.rows import TINY

CASE = replace(TINY, buckets=(4,), slots=5)


@pytest.mark.parametrize(
    ("in_shared", "ahead", "lines"),
    [(True, 1, [1, 2, 3]), (True, 3, [3]), (True, 4, []), (False, 1, [])],
)
def test_a_later_rows_cursors_are_asked_for(
    in_shared: bool, ahead: int, lines: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = ChainLaunch(
        Conv1dLaunch(64, 1),
        PrecomputeLaunch(1, 1, 0),
        StateUpdateLaunch(16),
        "default",
        fused=FusedLaunch(16, in_shared=in_shared),
    )
    asked: list[int] = []

    def ask_for_line_in_l2(pointer: Any) -> None:
        asked.append(int(pointer.handle.data.item()))

    monkeypatch.setattr(chain, "lookup", lambda shape, rows, **_: launch)
    monkeypatch.setattr(row_cursors, "AHEAD", tl.constexpr(ahead))
    monkeypatch.setattr(row_cursors, "ask_for_line_in_l2", ask_for_line_in_l2)
    driver = MirroredDriver(CASE)
    driver.run(1)
    cursors = driver.cache.scratch(4, CASE.tokens).row_cursors
    assert sorted(asked) == sorted(CASE.layers * [cursors[line].data_ptr() for line in lines])
