# SPDX-License-Identifier: Apache-2.0
"""How much the report's sections do, and on what device."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from graphrt.config import ChainShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes and counts of every section. The defaults are the report; `quick` tries it out.

    shape, slots, buckets: of the soak and of what is compared with it. host_layers: of the graphs
    whose launch the host pays for. layers: of the graph whose device time is divided by them.
    flush_cycle: launches in which every row flushes about as often as in the long run.
    back_to_back_layers: graphs of few layers are timed over launches of so many layers in all.
    model: a model directory, default the one in the package.
    """

    device: torch.device
    shape: ChainShape = field(
        default_factory=lambda: ChainShape(heads=16, head_dim=64, state_dim=128)
    )
    slots: int = 64
    buckets: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    launches: int = 100_000
    check_every: int = 100
    eager_launches: int = 12
    host_layers: tuple[int, ...] = (1, 100)
    host_rounds: int = 20
    host_calls: int = 100
    batches: tuple[int, ...] = (1, 8, 64, 256)
    layers: int = 48
    flush_cycle: int = 24
    back_to_back_layers: int = 400
    repeats: int = 10
    model: Path | None = None
    new_tokens: int = 200
    sanitizer_seconds: float = 120.0

    @classmethod
    def quick(cls, device: torch.device, model: Path | None = None) -> Settings:
        """Return tiny counts and sizes: seconds, also on a CPU, and figures that say nothing."""
        return cls(
            device=device,
            shape=ChainShape(heads=2, head_dim=16, state_dim=16),
            slots=6,
            buckets=(1, 2, 4),
            launches=60,
            check_every=5,
            eager_launches=4,
            host_layers=(1, 2),
            host_rounds=2,
            host_calls=10,
            batches=(1, 2),
            layers=2,
            flush_cycle=3,
            back_to_back_layers=4,
            repeats=2,
            model=model,
            new_tokens=12,
        )
