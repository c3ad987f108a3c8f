# SPDX-License-Identifier: Apache-2.0
"""What DecodeRuntime refuses, before anything is launched, admitted or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from graphrt import CaptureError, ConfigError, DecodeRuntime, Prefilled, SlotError
from tests.helpers.cases import Case, random_request
from tests.helpers.checks import check_same_bits
from tests.helpers.runtimes import (
    CASE,
    admit,
    captured,
    draw,
    nothing_written,
)

WIDE = replace(CASE, slots=7)  # 0 … 4 admitted, 5 never, 6 released

BAD_ROWS: dict[str, tuple[list[Any], str]] = {
    "twice": ([1, 0, 1], r"^slot=1: is named twice in one launch; "),
    "twice in the largest bucket": ([0, 1, 2, 0], r"^slot=0: is named twice in one launch; "),
    "not admitted": ([0, 5], r"^slot=5: is not admitted; admit\(\) it"),
    "released": ([6], r"^slot=6: is not admitted; "),
    "too large": ([0, 7], r"^slot=7: must be 0 … 6; "),
    "negative": ([-1], r"^slot=-1: must be 0 … 6; "),
    "padding": ([0, -1, 1], r"^slot=-1: must be 0 … 6; "),
    "bool": ([True, 0], r"^slot=True: must be an int; pass what admit\(\) returned"),
    "float": ([1.0], r"^slot=1\.0: must be an int; "),
    "text": (["1"], r"^slot='1': must be an int; "),
    "none": ([None], r"^slot=None: must be an int; "),
    "numpy": ([np.int64(1)], r"^slot=np\.int64\(1\): must be an int; "),
    "tensor": ([torch.tensor(1)], r"^slot=tensor\(1\): must be an int; "),
    "nested": ([[0, 1]], r"^slot=\[0, 1\]: must be an int; "),
    "more than the largest bucket": ([0, 1, 2, 3, 4], r"^rows=5: a launch takes 1 … 4 rows"),
    "none at all": ([], r"^rows=0: a launch takes 1 … 4 rows"),
}


def ready(runtime: DecodeRuntime) -> list[int]:
    """Admit slots 0 … 4 and 6, release 6, launch [2, 0], accept."""
    slots = admit(runtime, 7, WIDE)
    runtime.launch([2, 0], **draw(2, 3))
    runtime.accept([3, 1])
    runtime.release(6)
    runtime.release(5)
    return slots[:5]


def check_goes_on(runtime: DecodeRuntime) -> None:
    """Require the launch of before, and counts by row for it, to go on as if nothing had been."""
    seeds = runtime.cache.cursors.rand_seed.clone()
    runtime.accept([1, 2])
    assert runtime.accepted[:5].tolist() == [2, 0, 1, 0, 0]
    runtime.launch([2, 0])
    assert (runtime.cache.cursors.rand_seed - seeds).tolist() == [1, 0, 1, 0, 0, 0, 0]
    assert runtime.cache.cursors.held[:5].tolist() == [2, 0, 1, 0, 0]


# --- launch --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "said"), BAD_ROWS.values(), ids=BAD_ROWS)
@pytest.mark.parametrize("form", [list, tuple])
def test_rows_are_refused_before_anything_is_launched(
    form: Callable[[list[Any]], Any], rows: list[Any], said: str
) -> None:
    with captured(WIDE) as runtime:
        ready(runtime)
        inputs = draw(len(rows), 3, seed=1) if rows else {}
        with nothing_written(runtime), pytest.raises(SlotError, match=said):
            runtime.launch(form(rows), **inputs)
        check_goes_on(runtime)


@pytest.mark.parametrize("rows", [[2, 0], [0], [4, 3, 2, 1]], ids=str)
@pytest.mark.parametrize("tokens", [2, 4, -1, 0])
def test_a_t_that_was_not_captured_is_refused(rows: list[int], tokens: int) -> None:
    with captured(WIDE) as runtime:
        ready(runtime)
        said = rf"=\((1|2|4), {tokens}\): has no graph; captured: \(1, 1\), \(1, 3\), \(2, 1\)"
        with nothing_written(runtime):
            with pytest.raises(CaptureError, match=said):
                runtime.launch(rows, tokens=tokens)
            with pytest.raises(CaptureError, match=said):
                runtime.buffers(1, tokens)
        check_goes_on(runtime)


BAD_INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"x": torch.zeros(2)}, r"^input=x: must name a static buffer: xbc, dt, z, out; "),
    "too few rows": (
        {"xbc": torch.zeros(1, 2, 3, 128)},
        r"^xbc=\(1, 2, 3, 128\): must have shape \(2, 2, 3, 128\), one row a slot of the launch",
    ),
    "a whole bucket's rows": ({"xbc": torch.zeros(4, 2, 3, 128)}, r"^xbc=\(4, 2, 3, 128\): must"),
    "another T": (
        {"dt": torch.zeros(2, 2, 1, 4)},
        r"^dt=\(2, 2, 1, 4\): must have shape",
    ),
    "no layers": ({"dt": torch.zeros(2, 3, 4)}, r"^dt=\(2, 3, 4\): must have shape"),
    "integers": ({"dt": torch.zeros(2, 2, 3, 4).int()}, r"^dt=torch\.int32: the buffer holds"),
    "no number": ({"z": [object()]}, r"^z=list: an input is a tensor or a sequence of numbers"),
}


@pytest.mark.parametrize(("bad", "said"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_inputs_that_do_not_fit_are_refused_before_any_is_copied(
    bad: dict[str, Tensor], said: str
) -> None:
    with captured(WIDE) as runtime:
        ready(runtime)
        with nothing_written(runtime), pytest.raises(ConfigError, match=said):
            runtime.launch([2, 0], **(draw(2, 3, seed=1) | bad))
        check_goes_on(runtime)


def test_counts_by_row_are_not_those_of_a_launch_that_was_refused() -> None:
    with captured() as runtime:
        a, b = admit(runtime, 2)
        runtime.launch([b])
        runtime.launch([a])
        with pytest.raises(ConfigError, match="must name a static buffer"):
            runtime.launch([b], nonsense=torch.zeros(1))
        runtime.accept([2])
        assert runtime.accepted[[a, b]].tolist() == [2, 0]


def test_a_refused_launch_does_not_raise_what_may_be_accepted() -> None:
    with captured() as runtime:
        (slot,) = admit(runtime, 1)
        with pytest.raises(ConfigError, match="must name a static buffer"):
            runtime.launch([slot], nonsense=torch.zeros(1))
        with pytest.raises(ValueError, match=rf"accepted\[{slot}\]=3: must be 0 … 0"):
            runtime.accept({slot: 3})


# --- admit and release ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "slot", [5, 6, 7, -1, True, 1.0, "1", None, np.int64(1)], ids=lambda slot: repr(slot)
)
def test_a_slot_that_is_not_admitted_cannot_be_released(slot: Any) -> None:
    with captured(WIDE) as runtime:
        ready(runtime)
        said = r"^slot=.*: (is not admitted|must be an int|must be 0 … 6); "
        with nothing_written(runtime), pytest.raises(SlotError, match=said):
            runtime.release(slot)
        check_goes_on(runtime)
        assert [runtime.admit(), runtime.admit()] == [5, 6]


def test_a_released_slot_is_refused_even_where_it_was_launched_last() -> None:
    with captured() as runtime:
        rows = admit(runtime, 2)
        runtime.launch(rows)
        runtime.release(rows[0])
        with nothing_written(runtime):
            with pytest.raises(SlotError, match=r"^slot=0: is not admitted"):
                runtime.launch(rows)
            with pytest.raises(SlotError, match=r"^slot=0: is not admitted"):
                runtime.release(rows[0])
        runtime.launch(rows[1:])


def test_when_every_slot_is_taken_admission_is_refused() -> None:
    with captured() as runtime:
        slots = admit(runtime, 6)
        assert slots == list(range(6))
        with nothing_written(runtime):
            for request in (None, random_request(CASE, torch.Generator())):
                with pytest.raises(SlotError, match=r"^slots=6: every slot is admitted; release"):
                    runtime.admit(request)
        runtime.release(3)
        assert runtime.admit() == 3


@pytest.mark.parametrize(
    "changed", [{"layers": 1}, {"heads": 2}, {"state_dim": 32}, {"conv_width": 3}], ids=str
)
def test_admission_with_a_bad_shape_takes_no_slot(changed: dict[str, int]) -> None:
    other: Case = replace(CASE, **changed)
    with captured() as runtime, captured() as untroubled:
        for one in (runtime, untroubled):
            admit(one, 2)
        with nothing_written(runtime):
            for _ in range(10):  # more than there are slots
                with pytest.raises(ConfigError, match=r"^prefilled\.(state|conv_tail)\.shape="):
                    runtime.admit(random_request(other, torch.Generator()))
        for one in (runtime, untroubled):  # it was no admission: the next one's seed is the same
            assert one.admit() == 2
        seeds = [one.cache.cursors.rand_seed for one in (runtime, untroubled)]
        check_same_bits(*seeds, "rand_seed")


def test_what_fails_within_admission_takes_no_slot() -> None:
    with captured() as runtime:
        for _ in range(10):
            with pytest.raises(AttributeError):
                runtime.admit(Prefilled(state=None, conv_tail=None))  # type: ignore[arg-type]
        assert admit(runtime, 6) == list(range(6))


def test_a_seed_that_is_no_int64_is_refused() -> None:
    with captured() as runtime, nothing_written(runtime), pytest.raises(ConfigError, match="seed"):
        runtime.admit(seed=2**63)
