# SPDX-License-Identifier: Apache-2.0
"""The gate that needs no GPU: what must raise a prediction does, and is named."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graphrt.bench.cases import SHAPES, Case
from graphrt.kernels.tuning import lookup
from graphrt.latency import static_gate
from graphrt.latency.errors import OtherSchema, RecordingError
from graphrt.latency.static_gate import model_us, predictions, reread_bytes, risen

CASE = Case(shape=SHAPES["rank"], batch=256)


@pytest.fixture
def told() -> dict[str, Any]:
    return predictions("sm_90")


def test_the_same_predictions_have_not_risen(told: dict[str, Any]) -> None:
    assert risen(told, copy.deepcopy(told), 0.01) == []
    assert all(case["us"] > 2.8 for case in told["cases"].values())


def test_more_bytes_cost_more() -> None:
    launch = lookup(CASE.shape, CASE.batch)
    assert model_us(replace(CASE, state_dtype=torch.float32), launch) > 1.5 * model_us(CASE, launch)
    assert model_us(CASE.at(512), launch) > 1.8 * model_us(CASE, launch)


def test_a_smaller_tile_reads_more_often() -> None:
    launch = lookup(CASE.shape, CASE.batch)
    large = replace(launch.state_update, block_head_dim=CASE.shape.head_dim)
    launch = replace(launch, state_update=large)
    small = replace(launch, state_update=replace(launch.state_update, block_head_dim=16))
    assert reread_bytes(CASE, small) > reread_bytes(CASE, launch)
    assert model_us(CASE, small) > 1.02 * model_us(CASE, launch)


def test_what_rises_is_named_with_its_cause(told: dict[str, Any]) -> None:
    now = copy.deepcopy(told)
    name = "rank, float16 state, batch 256"
    now["cases"][name]["us"] *= 1.05
    now["cases"][name]["choice"]["state_update"]["block_head_dim"] = 64
    (line,) = risen(told, now, 0.01)
    assert line.startswith(f"{name}: ") and "+5.0%" in line and "'block_head_dim': 64" in line
    assert risen(now, told, 0.01) == []
    del now["cases"][name]
    assert risen(told, now, 0.01) == [f"{name}: is not predicted any more"]


def test_a_table_entry_is_taken_and_scaled() -> None:
    launch = lookup(CASE.shape, CASE.batch)
    entry = {
        "key": {
            "heads": 16,
            "head_dim": 64,
            "state_dim": 128,
            "tokens": 6,
            "state_dtype": "float16",
            "activation_dtype": "bfloat16",
            "row_heads": 4096,
        },
        "choice": launch.choice(),
        "measured_us": {"chain": 50.0},
        "measured_at": {"window": 16, "batch": 256},
    }
    measured = static_gate.scaled(CASE, launch, [entry])
    assert measured == pytest.approx(50.0)
    more = static_gate.scaled(CASE.at(512), launch, [entry])
    expected = 50.0 * model_us(CASE.at(512), launch) / model_us(CASE, launch)
    assert more == pytest.approx(expected)
    assert static_gate.scaled(CASE, launch, []) is None


def test_files_that_are_no_predictions_are_refused(tmp_path: Path, told: dict[str, Any]) -> None:
    path = tmp_path / "p.json"
    static_gate.write(told, path)
    assert static_gate.read(path) == told
    path.write_text(json.dumps({**told, "schema": 7}))
    with pytest.raises(OtherSchema, match="schema=7"):
        static_gate.read(path)
    for text in ("{}", "not json"):
        path.write_text(text)
        with pytest.raises(RecordingError, match=r"p\.json"):
            static_gate.read(path)
