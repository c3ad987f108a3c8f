# SPDX-License-Identifier: Apache-2.0
"""How much is sampled."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from graphrt.errors import ConfigError, sentence


@dataclass(frozen=True, slots=True)
class Budget:
    """How much is sampled of every case.

    builds: how often everything is allocated and captured anew. blocks: visits of every sampler in
    a build. host_calls, launches, steps, marginals: samples in a block. recaptures: of a build.
    calls: fewest in a graph of marginal cost. l2_times: how often its caches exceed L2.
    """

    builds: int = 5
    blocks: int = 6
    host_calls: int = 32
    launches: int = 24
    steps: int = 24
    marginals: int = 2
    recaptures: int = 2
    calls: int = 32
    l2_times: float = 4.0

    def __post_init__(self) -> None:
        """Raise ConfigError for a count below 1."""
        for name, value in asdict(self).items():
            if name != "l2_times" and value < 1:
                raise ConfigError(sentence(name, value, "must be ≥ 1", f"raise {name}"))

    @classmethod
    def quick(cls) -> Budget:
        """Return tiny counts, to try it out."""
        return cls(2, 3, 6, 4, 4, 1, 1, 2, 0.01)

    def contract(self) -> dict[str, Any]:
        """Return what two recordings must share for their samples to be comparable."""
        counts = asdict(self)
        return {name: counts[name] for name in ("calls", "l2_times")}
