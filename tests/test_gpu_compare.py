# SPDX-License-Identifier: Apache-2.0
"""The report's soak and its comparison with the twins refuse what is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from graphrt.kernels import reference
from tools.gpu import compare, soak
from tools.gpu.report import run_section
from tools.gpu.settings import Settings

CPU = torch.device("cpu")


def test_the_soak_refuses_a_wrong_output(monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference.state_update_reference
    calls = []

    def wrong(*args: Any, **options: Any) -> None:
        right(*args, **options)
        calls.append(1)
        if len(calls) > 60:
            args[6][0, 0, 0] += 1.0

    def launch_twins(*args: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(reference, "state_update_reference", right)
            original(*args)

    original = soak.launch_twins
    monkeypatch.setattr(reference, "state_update_reference", wrong)
    monkeypatch.setattr(soak, "launch_twins", launch_twins)
    found = run_section(soak.soak, Settings.quick(CPU))
    assert found["passed"] is False
    assert found["failures"][0].startswith("launch ")
    assert "y: " in found["failures"][0]
    assert found["launches"] < Settings.quick(CPU).launches


def test_the_soak_refuses_memory_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_in_use = iter([1000, 1512])
    monkeypatch.setattr(soak, "memory", lambda device: {"allocated_bytes": next(bytes_in_use)})
    found = soak.soak(replace(Settings.quick(CPU), launches=20))
    assert found["failures"] == ["allocated_bytes grew by 512 bytes in 19 launches"]


@pytest.fixture
def launched() -> soak.Soak:
    """A soak whose clone is what its runtime's caches were before the launch just made."""
    config = soak.serving_config(
        Settings.quick(CPU), layers=2, slots=6, buckets=(4,), launch_tokens=(6,)
    )
    run = soak.Soak(config)
    run.rows, run.tokens = run.live[:3], 6
    for count in (6, 5):
        run.runtime.launch(run.rows)
        run.runtime.accept([count] * 3)
    run._launch_and_check(run.runtime.buffers(4))
    assert run.flushes_checked == 3
    return run


@pytest.mark.parametrize(
    ("name", "place", "delta"),
    [
        ("state", (0, 0, 1, 3, 5), 0.01),  # of a slot that flushed
        ("state", (1, 5, 1, 3, 5), 0.0001),  # of a slot that was not launched
        ("x_ring", (0, 1, 0, 11, 2), 0.5),  # written by this launch
        ("x_ring", (0, 1, 0, 3, 2), 0.01),  # not written by this launch
        ("b_ring", (0, 2, 0, 12, 2), 0.5),
        ("dt_ring", (1, 0, 1, 13), 1e-3),
        ("conv_ring", (1, 0, 2, 7), 0.01),
    ],
)
def test_a_cache_that_differs_is_refused(
    launched: soak.Soak, name: str, place: tuple[int, ...], delta: float
) -> None:
    slots = torch.tensor(launched.rows)
    compare.check_caches(launched.runtime.cache, launched.twin, slots, 6)
    cache = getattr(launched.runtime.cache, name)
    before = cache[place].item()
    cache[place] += delta * max(1.0, abs(before))
    assert cache[place].item() != before
    with pytest.raises(compare.Mismatch, match=f"^{name}: 1 of"):
        compare.check_caches(launched.runtime.cache, launched.twin, slots, 6)
    cache[place] = torch.nan
    with pytest.raises(compare.Mismatch, match=f"^{name}: 1 of"):
        compare.check_caches(launched.runtime.cache, launched.twin, slots, 6)


def test_one_step_of_rounding_is_allowed_where_something_was_computed(
    launched: soak.Soak,
) -> None:
    slots = torch.tensor(launched.rows)
    for name, place in (("state", (0, 0, 1, 3, 5)), ("x_ring", (0, 1, 0, 11, 2))):
        cache = getattr(launched.runtime.cache, name)
        bits = cache.view(torch.int16)
        bits[place] += 1
        compare.check_caches(launched.runtime.cache, launched.twin, slots, 6)
        bits[place] += 1
        with pytest.raises(compare.Mismatch, match=f"^{name}: 1 of"):
            compare.check_caches(launched.runtime.cache, launched.twin, slots, 6)
        bits[place] -= 2


def test_cursors_are_compared_exactly(launched: soak.Soak) -> None:
    for name in compare.CURSORS:
        cursor = getattr(launched.runtime.cache.cursors, name)
        cursor[5] += 1
        with pytest.raises(compare.Mismatch, match=f"^{name}: 1 of 6"):
            compare.check_caches(
                launched.runtime.cache, launched.twin, torch.tensor(launched.rows), 6
            )
        cursor[5] -= 1


def test_outputs_are_compared_by_row_and_head() -> None:
    expected = torch.randn(3, 2, 4, 2, 16)
    expected[2] = 0
    got = expected.clone()
    assert compare.check_outputs(got, expected, 2) == 0
    got[1, 0, :, 1] *= 1.009
    assert 0.008 < compare.check_outputs(got, expected, 2) < 0.01
    for spoil in (1.02, torch.nan):
        spoiled = got.clone()
        spoiled[1, 0, :, 1] *= spoil
        with pytest.raises(compare.Mismatch, match=r"^y: relative error"):
            compare.check_outputs(spoiled, expected, 2)
    got[2, 0, 0, 0, 0] = torch.nan
    with pytest.raises(compare.Mismatch, match="padding"):
        compare.check_outputs(got, expected, 2)
