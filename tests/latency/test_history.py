# SPDX-License-Identifier: Apache-2.0
"""The history file, and steps in histories whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphrt.latency.effects import MinimumEffects
from graphrt.latency.errors import OtherSchema, RecordingError
from graphrt.latency.history import Entry, append, read
from graphrt.latency.quantities import Key
from graphrt.latency.steps import Step, steps
from tests.helpers.recordings import WHOLE, recording, samples

HOST = Key("host_launch")
LOOP = Key("host_loop")


def entries(
    values: Sequence[float], loops: Sequence[float] | None = None, key: Key = WHOLE
) -> list[Entry]:
    loops = loops if loops is not None else [50.0] * len(values)
    return [
        Entry(
            run=str(number),
            label="l",
            date=f"2026-01-{number + 1:02}",
            commit=f"c{number}",
            machine="m",
            cases={"case": {key: [value]}},
            yardsticks={"case": {LOOP: [loop]}},
        )
        for number, (value, loop) in enumerate(zip(values, loops, strict=True))
    ]


def noisy(seed: int, count: int, noise: float = 0.01, heavy: bool = False) -> np.ndarray:
    random = np.random.default_rng(seed)
    errors = random.standard_t(3, count) if heavy else random.normal(0, 1, count)
    return np.asarray(10 * np.exp(noise * errors))


def test_a_recording_becomes_a_line_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    random = np.random.default_rng(0)
    first = recording({WHOLE: samples(random)}, run="a")
    assert append(first, path) and not append(first, path)
    before = path.read_bytes()
    assert append(recording({WHOLE: samples(random)}, run="b"), path)
    assert path.read_bytes().startswith(before)
    found = read(path)
    assert [entry.run for entry in found] == ["a old", "b old"]
    assert found[0] == Entry.of(first)
    assert len(found[0].cases["case"][WHOLE]) == 5 and found[0].commit == "abc"
    assert found[0].yardsticks["case"].keys() == {LOOP, Key("copy"), Key("marginal", "empty_chain")}
    other = replace(first, settings={"calls": 64})
    assert Entry.of(other).machine != found[0].machine


def test_a_line_that_was_cut_off_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    random = np.random.default_rng(0)
    append(recording({WHOLE: samples(random)}, run="a"), path)
    path.write_bytes(path.read_bytes() + path.read_bytes()[:100])
    append(recording({WHOLE: samples(random)}, run="b"), path)
    assert [entry.run for entry in read(path)] == ["a old", "b old"]


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (lambda told: told.update(schema=9), OtherSchema),
        (lambda told: told.update(kind="x"), RecordingError),
        (lambda told: told.pop("cases"), RecordingError),
        (lambda told: told["cases"].update(case=[["no such", "launch", 1.0]]), RecordingError),
        (lambda told: told["cases"].update(case=[["marginal", "launch"]]), RecordingError),
    ],
)
def test_what_is_no_history_is_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], error: type
) -> None:
    path = tmp_path / "history.jsonl"
    append(recording({WHOLE: samples(np.random.default_rng(0))}), path)
    told = json.loads(path.read_text())
    edit(told)
    path.write_text(json.dumps(told) + "\n")
    with pytest.raises(error, match=r"history\.jsonl: line 1"):
        read(path)
    path.write_text("nothing\n")
    with pytest.raises(RecordingError, match="no line of a history"):
        read(path)


@pytest.mark.parametrize("heavy", [False, True])
def test_histories_without_a_step_have_none(heavy: bool) -> None:
    least = MinimumEffects.parse(["0.01"])
    found = [
        steps(entries(noisy(seed, count, heavy=heavy)), least)
        for seed in range(100)
        for count in (8, 15, 40)
    ]
    assert sum(map(bool, found)) <= 0.05 * len(found)


@pytest.mark.parametrize(("loss", "count"), [(0.05, 24), (0.1, 10), (-0.1, 10)])
def test_a_step_is_found_where_it_is(loss: float, count: int) -> None:
    hits = 0
    for seed in range(50):
        values = noisy(seed, count)
        values[count // 2 :] *= 1 + loss
        found = steps(entries(values))
        hits += [step.entry.commit for step in found] == [f"c{count // 2}"]
        assert all((step.ratio > 1) == (loss > 0) for step in found)
    assert hits >= 45


def test_two_steps_are_both_found_and_told() -> None:
    values = noisy(0, 30)
    values[10:] *= 1.2
    values[20:] /= 1.1
    first, second = steps(entries(values))
    assert (first.entry.commit, second.entry.commit) == ("c10", "c20")
    assert str(first).startswith("case: marginal SLOWER +") and "commit c10" in str(first)
    assert "FASTER -" in str(second)


def test_a_bad_day_is_no_step() -> None:
    values = noisy(0, 20)
    values[9:11] *= 1.5
    assert not steps(entries(values))


def test_what_the_machine_did_is_no_step() -> None:
    values = noisy(0, 20)
    values[10:] *= 1.3
    loops = noisy(1, 20)
    found: list[Step] = steps(entries(values, loops, HOST))
    assert [step.entry.commit for step in found] == ["c10"]
    loops[10:] *= 1.3
    assert not steps(entries(values, loops, HOST))
    assert steps(entries(values, loops, WHOLE)), "a loop in Python says nothing of device times"
