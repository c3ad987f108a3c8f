# SPDX-License-Identifier: Apache-2.0
"""DecodeRuntime on a GPU: counts arrive in stream order, however they are written."""

from __future__ import annotations

import random

import pytest
import torch
import triton
import triton.language as tl

from graphrt import AcceptError, DecodeRuntime
from tests.helpers.gpu_runtimes import (
    DEVICE,
    WHILE,
    admit,
    captured_chain,
    check_all_same_bits,
    config,
    draw,
)
from tools.gpu.compare import CURSORS, check_same_bits

pytestmark = pytest.mark.gpu


@triton.jit
def _write_counts(accepted_ptr, slots_ptr, counts_ptr, ROWS: tl.constexpr):
    for row in tl.static_range(ROWS):
        tl.store(accepted_ptr + tl.load(slots_ptr + row), tl.load(counts_ptr + row))


def by_list(runtime: DecodeRuntime, rows: list[int], counts: list[int]) -> None:
    runtime.accept(counts)


def by_mapping(runtime: DecodeRuntime, rows: list[int], counts: list[int]) -> None:
    runtime.accept(dict(reversed(list(zip(rows, counts, strict=True)))))


def by_tensor(runtime: DecodeRuntime, rows: list[int], counts: list[int]) -> None:
    runtime.accept(torch.tensor(counts, dtype=torch.int32).to(DEVICE, non_blocking=True))


def by_whole_bucket(runtime: DecodeRuntime, rows: list[int], counts: list[int]) -> None:
    runtime.accept(torch.tensor([*counts, 99], dtype=torch.int32, device=DEVICE))


def by_own_kernel(runtime: DecodeRuntime, rows: list[int], counts: list[int]) -> None:
    on_device = torch.tensor([rows, counts], dtype=torch.int32).to(DEVICE, non_blocking=True)
    _write_counts[(1,)](runtime.accepted, on_device[0], on_device[1], ROWS=3)


WAYS = [by_list, by_mapping, by_tensor, by_whole_bucket, by_own_kernel]


def test_every_way_to_accept_is_the_same() -> None:
    results = {}
    with captured_chain(config(slots=3 * len(WAYS))) as (runtime, _):
        for way in WAYS:
            rng = random.Random(1)
            rows = admit(runtime, 3)
            outs = []
            for launch in range(12):
                torch.cuda._sleep(WHILE // 100)  # the host runs ahead: all is in stream order
                inputs = draw(runtime.config, 3, 3, launch)
                outs.append(runtime.launch(rows, **inputs).out.clone())
                way(runtime, rows, [rng.randint(0, 3) for _ in rows])
            runtime.launch(rows)
            cursors = [getattr(runtime.cache.cursors, name)[rows] for name in CURSORS]
            results[way] = (outs, cursors)
    outs, cursors = results[by_list]
    assert cursors[0].max() > 0
    for way in WAYS:
        check_all_same_bits(results[way][0], outs)
        for got, expected in zip(results[way][1], cursors, strict=True):
            check_same_bits(got, expected, way.__name__)


def test_what_is_not_accepted_is_not_committed() -> None:
    with captured_chain(config()) as (runtime, _):
        rows = admit(runtime, 2)
        inputs = draw(runtime.config, 2, 3, 0)
        first = runtime.launch(rows, **inputs).out.clone()
        for tokens in (3, 1, 3):
            runtime.launch(rows, tokens=tokens)
        check_same_bits(runtime.launch(rows, **inputs).out, first, "y")
        assert runtime.cache.cursors.held[rows].tolist() == [0, 0]
        runtime.accept([2, 0])
        runtime.launch(rows)
        assert runtime.cache.cursors.held[rows].tolist() == [2, 0]


def test_a_clamped_count_is_reported_and_nothing_waits_for_it() -> None:
    with captured_chain(config()) as (runtime, _):
        rows = admit(runtime, 2)
        runtime.launch(rows)
        torch.cuda.synchronize()
        torch.cuda._sleep(WHILE)
        runtime.accepted[rows[0]].fill_(9)
        runtime.launch(rows)
        runtime.accept([1, 1])
        runtime.launch(list(reversed(rows)))
        assert not torch.cuda.current_stream().query(), "a call waited for the device"
        torch.cuda.synchronize()
        with pytest.raises(AcceptError, match=rf"accepted={{{rows[0]}: 9}}"):
            runtime.launch(rows)
        runtime.launch(rows)
        # Clamped to T 3, then 1 more.
        assert runtime.cache.cursors.held[rows].tolist() == [4, 1]
