# SPDX-License-Identifier: Apache-2.0
"""Counts that the device clamped: reported once, by whatever looks first, which then works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from graphrt import AcceptError, DecodeRuntime
from graphrt.accepting import clamped_counts
from graphrt.kernels.tensors import NO_CLAMP
from tests.helpers.checks import check_same_bits
from tests.helpers.runtimes import admit, cached, captured, nothing_written


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


Call = Callable[[DecodeRuntime, list[int]], object]
LOOKS: dict[str, Call] = {
    "admit": lambda runtime, rows: runtime.admit(),
    "launch": lambda runtime, rows: runtime.launch(rows),  # as before
    "launch others": lambda runtime, rows: runtime.launch(rows[:1]),
    "launch another T": lambda runtime, rows: runtime.launch(rows, tokens=1),
    "accept": lambda runtime, rows: runtime.accept({rows[0]: 2}),
    "accept by row": lambda runtime, rows: runtime.accept([2, 2]),
    "accept a tensor": lambda runtime, rows: runtime.accept(int32(2, 2)),
    "release": lambda runtime, rows: runtime.release(rows[0]),
    "release another": lambda runtime, rows: runtime.release(rows[0] + 2),
    "check": lambda runtime, rows: runtime.check(),
}


@contextmanager
def clamped(wrong: int = 9) -> Iterator[tuple[DecodeRuntime, list[int]]]:
    """Give a runtime that clamped slot 1's count in the launch of slots 0 and 1, just made."""
    with captured() as runtime:
        admit(runtime, 3)
        runtime.launch([0, 1])
        runtime.accepted[1] = wrong
        runtime.accepted[0] = 1
        runtime.check()  # nobody has seen it yet
        runtime.launch([0, 1])
        yield runtime, [0, 1]


@pytest.mark.parametrize("call", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize(("wrong", "kept"), [(9, 3), (-2, 0)], ids=["too many", "negative"])
def test_a_clamped_count_is_reported_once_by_whatever_looks_first(
    call: Call, wrong: int, kept: int
) -> None:
    with clamped(wrong) as (runtime, rows), clamped(wrong) as (twin, _):
        assert runtime.cache.cursors.held[rows].tolist() == [1, kept]
        said = rf"^accepted={{1: {wrong}}}: counts by slot outside 0 … the tokens of"
        with nothing_written(runtime, "clamped"), pytest.raises(AcceptError, match=said):
            call(runtime, rows)
        with nothing_written(runtime):
            runtime.check()
        with pytest.raises(AcceptError, match=said):
            twin.check()
        results = [call(one, rows) for one in (runtime, twin)]  # the same call goes through
        if isinstance(results[0], int):
            assert results == [3, 3]
        for name, tensor in cached(twin).items():
            check_same_bits(cached(runtime)[name], tensor, name)


def test_clamps_of_several_launches_are_reported_together() -> None:
    with captured() as runtime:
        a, b, c = admit(runtime, 3)
        runtime.launch([a])
        runtime.accepted[a] = 4
        runtime.accepted[b] = 1  # never launched: nothing of it can be accepted
        runtime.accepted[c] = 0
        runtime.launch([a, b, c])
        with pytest.raises(AcceptError, match=rf"^accepted={{{a}: 4, {b}: 1}}: "):
            runtime.check()
        runtime.check()
        assert runtime.cache.cursors.held[[a, b, c]].tolist() == [3, 0, 0]


def test_a_wrong_count_is_not_seen_before_its_slot_is_launched() -> None:
    with captured() as runtime:
        a, b = admit(runtime, 2)
        runtime.launch([a])
        runtime.accepted[a] = 9
        runtime.launch([b])
        runtime.launch([b])
        runtime.accept({a: 3})  # mended in time
        runtime.launch([a])
        runtime.check()
        assert runtime.cache.cursors.held[a] == 3


def test_the_next_request_of_a_slot_does_not_commit_a_count_of_the_last() -> None:
    with captured() as runtime:
        (slot,) = admit(runtime, 1)
        runtime.launch([slot])
        runtime.accepted[slot] = 9
        runtime.release(slot)
        assert runtime.admit() == slot
        runtime.launch([slot])
        runtime.check()
        assert runtime.cache.cursors.held[slot] == 0


def test_the_report_of_clamped_counts_clears_them() -> None:
    counts = np.array([NO_CLAMP, 7, NO_CLAMP, -3, 1], dtype=np.int32)
    assert clamped_counts(counts).startswith("accepted={1: 7, 3: -3}: ")
    assert counts.tolist() == [NO_CLAMP] * 4 + [0]
