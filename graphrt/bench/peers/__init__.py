# SPDX-License-Identifier: Apache-2.0
"""Other people's kernels, used where they are installed: one file each.

Each module has NAME and ``build(work, effort) -> Contender``, which raises Unavailable, saying
why, where the package is not importable or does not do the case. All run on the workload's own
tensors, start from conv1d's output, and pass a gate of their own before they are timed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from graphrt.bench.contender import Contender
from graphrt.bench.workload import Effort, Workload

PEERS = ("flashinfer_ring", "flashinfer_snapshots", "mamba_one_token")

PEER_LIMIT = 3e-2
"""Relative error a peer may have: FlashInfer rounds every state to bf16 where it is read."""


def peers(work: Workload, effort: Effort) -> list[Callable[[], Contender]]:
    """Return what builds each peer; building may raise Unavailable."""

    def later(name: str) -> Callable[[], Contender]:
        def build() -> Contender:
            module = import_module(f"{__name__}.{name}")
            built: Contender = module.build(work, effort)
            return built

        build.__name__ = name
        return build

    return [later(name) for name in PEERS]
