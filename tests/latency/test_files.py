# SPDX-License-Identifier: Apache-2.0
"""Recordings on disk: all of it comes back, and nothing else is taken for one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphrt.latency.errors import (
    BadSamples,
    OtherSchema,
    RecordingError,
    TruncatedRecording,
)
from graphrt.latency.files import load, partial_path, save
from tests.helpers.recordings import STAGE, WHOLE, recording, samples


@pytest.fixture
def path(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    path = tmp_path / "base.json"
    save(recording({WHOLE: samples(random), STAGE: samples(random)}), path)
    return path


def test_what_is_saved_is_loaded(path: Path) -> None:
    found = load(path)
    again = path.with_name("again.json")
    save(found, again)
    assert again.read_text() == path.read_text()
    assert found.cases["case"].array(STAGE).shape == (5, 6, 8)


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    told = json.loads(path.read_text())
    edit(told)
    path.write_text(json.dumps(told))
    return path


def series(told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = told["cases"][0]["series"][0]
    return found


@pytest.mark.parametrize(
    ("edit", "error", "words"),
    [
        (lambda t: t.update(schema=2), OtherSchema, "schema=2: this graphrt reads schema 1; upg"),
        (lambda t: t.update(schema=0), OtherSchema, "record again"),
        (lambda t: t.update(kind="else"), RecordingError, "kind"),
        (lambda t: t.update(more=1), RecordingError, "fields more are missing or unknown"),
        (lambda t: t.pop("clocks"), RecordingError, "clocks"),
        (lambda t: t.update(cases=[]), BadSamples, "no case"),
        (lambda t: t.update(complete=False), TruncatedRecording, "ended before it was complete"),
        (lambda t: t["cases"][0].update(series=[]), BadSamples, "must hold samples"),
        (lambda t: series(t).update(samples=[]), BadSamples, "empty"),
        (lambda t: series(t).update(samples=[[[0.0, 0.0]]]), BadSamples, "all zero"),
        (lambda t: series(t).update(samples=[[[1.0], [1.0, 2.0]]]), BadSamples, "equally long"),
        (lambda t: series(t).update(samples=[[[float("nan")]]]), BadSamples, "NaN"),
        (lambda t: series(t).update(samples=7), BadSamples, "empty"),
        (lambda t: series(t).update(quantity="luck"), RecordingError, "luck is unknown"),
        (lambda t: series(t).update(unit="ms"), RecordingError, "unit us"),
    ],
)
def test_what_is_no_recording_is_refused(
    path: Path, edit: Callable[[dict[str, Any]], object], error: type[Exception], words: str
) -> None:
    change(path, edit)
    before = path.read_text()
    with pytest.raises(error, match=words) as raised:
        load(path)
    assert type(raised.value) is error
    assert "base.json" in str(raised.value)
    assert path.read_text() == before


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_file_that_is_cut_off_is_called_that(path: Path, share: float) -> None:
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(TruncatedRecording):
        load(path)


def test_a_killed_recording_leaves_the_one_before_it(path: Path) -> None:
    before = path.read_text()
    unfinished = recording({WHOLE: samples(np.random.default_rng(1))})
    unfinished.complete = False
    save(unfinished, path)
    assert path.read_text() == before
    with pytest.raises(TruncatedRecording, match="1 cases"):
        load(partial_path(path))
    assert load(partial_path(path), partial=True).cases.keys() == {"case"}
    unfinished.complete = True
    save(unfinished, path)
    assert path.read_text() != before and not partial_path(path).exists()
