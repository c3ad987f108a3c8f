# SPDX-License-Identifier: Apache-2.0
"""What a search of tools.tune times together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from graphrt.bench.stages import PAIR, Stage
from graphrt.kernels.tuning import FusedLaunch, StateUpdateLaunch, defaults
from tools.tune import searched

SMALL, LARGE = FusedLaunch(8), FusedLaunch(16)
THREE = ("conv1d", *PAIR)


@pytest.mark.parametrize(
    ("stage", "single", "choice", "together"),
    [
        ("state_update", None, StateUpdateLaunch(16), PAIR),
        ("state_update", LARGE, StateUpdateLaunch(16), PAIR),
        ("fused", None, SMALL, ("conv1d", "fused")),
        ("fused", None, None, THREE),
        ("fused", LARGE, SMALL, ("fused",)),  # what a single layer leaves it: one of its own
        ("fused", LARGE, None, PAIR),
        ("single", None, SMALL, ("single",)),
        ("single", LARGE, None, THREE),
    ],
)
def test_what_is_timed_to_search_a_stage(
    stage: Stage, single: FusedLaunch | None, choice: Any, together: tuple[Stage, ...]
) -> None:
    (_, launch), *_ = defaults()
    timed, varied = searched(stage, replace(launch, fused=None, single=single), choice)
    assert timed == together
    assert getattr(varied, stage) == choice
