# SPDX-License-Identifier: Apache-2.0
"""The tables of a benchmark report: each figure in its row and column, what is missing said so."""

from __future__ import annotations

from typing import Any

import pytest

from tools.bench_tables import RING, by_tokens, geometric_mean, pair, tail

SIZES = {
    **{"heads": 16, "head_dim": 64, "state_dim": 128, "groups": 1, "window": 16, "pdl": True},
    **{"state_dtype": "fp16", "tokens": 6, "batch": 1, "history": "histogram"},
}


def case(pair_us: float, ring_us: float | None, **sizes: Any) -> dict[str, Any]:
    times: dict[str, Any] = {
        "pair": {"us": pair_us, "floor_us": 1.0},
        "state_update": {"us": pair_us - 1},
        "moves": {"us": pair_us - 2},
    }
    if ring_us is not None:
        times[RING] = {"us": ring_us}
    return {"case": SIZES | sizes, "times": times, "failed": None}


def test_the_tail_has_both_dtypes_and_the_peer_where_it_ran() -> None:
    report = {
        "cases": [
            case(20.0, 21.0, history="all-flush"),
            case(8.0, None, history="no-flush"),
            case(40.0, 38.0, state_dtype="fp32", history="all-flush"),
        ]
    }
    assert tail(report).rows == (
        ("fp16 1", "all-flush", "19.00", "20.00", "21.00", "18.00"),
        ("fp16 1", "no-flush", "7.00", "8.00", "-", "6.00"),
        ("fp32 1", "all-flush", "39.00", "40.00", "38.00", "38.00"),
    )


def test_a_row_a_number_of_tokens_and_a_batch_with_the_best_of_the_peers() -> None:
    one = case(4.0, 5.0, tokens=1)
    one["times"]["mamba_one_token"] = {"us": 4.4}
    report = {
        "cases": [
            case(8.0, None, tokens=8, batch=64),
            one,
            case(9.0, 9.0, tokens=1, state_dtype="fp32", batch=16),
            case(6.0, 7.5, tokens=1, batch=16),
        ]
    }
    assert by_tokens(report).rows == (
        ("fp16 1", "1", "4.00", "5.00", "-", "4.40", "1.10"),
        ("fp16 1", "16", "6.00", "7.50", "-", "-", "1.25"),
        ("fp16 8", "64", "8.00", "-", "-", "-", "-"),
        ("fp32 1", "16", "9.00", "9.00", "-", "-", "1.00"),
    )


def test_a_case_that_failed_its_gate_is_in_no_table() -> None:
    failed = case(4.0, 5.0, batch=2) | {"failed": "wrong"}
    report = {"cases": [case(4.0, 6.0), failed]}
    assert [row[:4] for row in pair(report).rows] == [("fp16 1", "4.00", "6.00", "1.50")]
    assert geometric_mean(report, "fp16") == pytest.approx(1.5)
