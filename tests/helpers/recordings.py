# SPDX-License-Identifier: Apache-2.0
"""Recordings made up from known truths: no machine is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphrt.latency.quantities import Key
from graphrt.latency.recording import CaseRecord, Recording

WHOLE = Key("marginal")
STAGE = Key("marginal", "state_update")
OTHER = Key("marginal", "conv1d")


def samples(
    random: np.random.Generator,
    us: float = 10.0,
    *,
    builds: int = 5,
    blocks: int = 6,
    size: int = 8,
    noise: float = 0.01,
    luck: float = 0.002,
) -> NDArray[np.float64]:
    """Return (builds, blocks, size) of about ``us``: noise within, luck between builds."""
    logs = random.normal(0, luck, (builds, 1, 1)) + random.normal(0, noise, (builds, blocks, size))
    found: NDArray[np.float64] = us * np.exp(logs)
    return found


def recording(
    series: dict[Key, NDArray[np.float64]],
    *,
    label: str = "old",
    run: str = "run",
    case: str = "case",
    gpu: str = "H200",
    copy_us: float = 100.0,
    facts: dict[str, Any] | None = None,
    what: dict[str, Any] | None = None,
    seed: int = 0,
) -> Recording:
    """Return a complete recording of one case with the given samples."""
    random = np.random.default_rng(seed)
    yardsticks = {
        key: samples(random, us, size=4, noise=0.002).tolist()
        for key, us in (
            (Key("copy"), copy_us),
            (Key("host_loop"), 50.0),
            (Key("marginal", "empty_chain"), 3.0),
        )
    }
    return Recording(
        label=label,
        run=run,
        device="cuda:0",
        conditions={
            "gpu": {"name": gpu, "capability": "sm_90", "driver_version": "580"},
            "cuda": {"driver_supports": "13.0"},
            "machine": "Linux x86_64",
            "cpu": "cpu",
            "torch": "2.11",
            "commit": {"hash": "abc", "dirty": False},
        },
        settings={"calls": 32},
        clocks={"before": {"clocks.max.sm": "1980 MHz", "power.limit": "700 W"}},
        cases={
            case: CaseRecord(
                case,
                what=what or {"batch": 1},
                facts=facts or {},
                series={key: found.tolist() for key, found in series.items()},
                yardsticks=yardsticks,
            )
        },
        complete=True,
    )
