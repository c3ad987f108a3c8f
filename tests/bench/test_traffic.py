# SPDX-License-Identifier: Apache-2.0
"""The byte model against figures worked out elsewhere."""

from __future__ import annotations

import pytest
import torch

from graphrt.bench.cases import SHAPES, Case
from graphrt.bench.traffic import Traffic, floor_bytes

RANK = Case(shape=SHAPES["rank"], batch=1)
FP32 = Case(shape=SHAPES["rank"], batch=1, state_dtype=torch.float32)


def test_the_sizes_of_a_slot() -> None:
    size = Traffic.of(RANK)
    assert size.state == 16 * 64 * 128 * 2
    assert size.ring_token == 16 * 64 * 2 + 128 * 2 + 4 * 16
    assert size.inputs_and_outputs == 6 * 2 * (1280 + 16 + 1024)
    assert size.conv_token == 1280 * 2


@pytest.mark.parametrize(
    ("case", "batch", "us"),
    [  # the lazy ring at 4.25 TB/s, by the histogram
        (RANK, 1, 0.1),
        (RANK, 64, 6.1),
        (RANK, 1024, 97.3),
        (FP32, 1, 0.2),
        (FP32, 64, 11.2),
        (FP32, 1024, 180),
    ],
)
def test_the_floor_of_the_lazy_ring(case: Case, batch: int, us: float) -> None:
    floor = floor_bytes(case.at(batch))["pair"]
    assert floor / 4.25e12 * 1e6 == pytest.approx(us, rel=0.01, abs=0.05)


def test_a_wider_window_lowers_the_floor_of_a_full_batch() -> None:
    wide = Case(shape=SHAPES["rank"], batch=1024, window=32)
    assert floor_bytes(wide)["pair"] / 4.25e12 * 1e6 == pytest.approx(90, rel=0.02)


def test_a_launch_in_which_all_flush_writes_every_state() -> None:
    size = Traffic.of(RANK)
    floors = {
        history: floor_bytes(Case(shape=SHAPES["rank"], batch=8, history=history))
        for history in ("all-flush", "no-flush")
    }
    gap = floors["all-flush"]["pair"] - floors["no-flush"]["pair"]
    assert gap > 8 * size.state
    assert gap - 8 * size.state < 8 * 16 * size.ring_token


def test_stages_need_no_more_than_they_do_together() -> None:
    floors = floor_bytes(RANK)
    assert floors["pair"] < floors["chain"] < floors["snapshots"]
    assert floors["read"] < floors["state_update"] < floors["pair"]
    assert floors["precompute"] + floors["state_update"] == pytest.approx(floors["pair"], rel=0.05)
