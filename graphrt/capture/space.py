# SPDX-License-Identifier: Apache-2.0
"""Capture spaces: where the graphs of one device are made, with a GPU or without."""

from __future__ import annotations

from typing import Protocol

import torch

from graphrt.capture.cuda_graph import CudaSpace
from graphrt.capture.graph import Graph, RecordedGraph, Work


class CaptureSpace(Protocol):
    """What captures need of a device; `CudaSpace` and `RecordSpace` are the two there are."""

    def graph(self, name: str = "graph") -> Graph:
        """Return an empty graph that will be captured here."""

    def prepare(self) -> None:
        """Make memory free for captures."""

    def warm_up(self, fn: Work) -> None:
        """Run ``fn`` once where captures run, and wait for it."""

    def free_bytes(self) -> int | None:
        """Return the bytes that can still be allocated; None where captures take none."""


class RecordSpace:
    """The space of a machine without a GPU: recording needs neither stream nor pool."""

    def graph(self, name: str = "graph") -> RecordedGraph:
        """Return an empty graph that records calls."""
        return RecordedGraph(name)

    def prepare(self) -> None:
        """Do nothing: recording allocates nothing."""

    def warm_up(self, fn: Work) -> None:
        """Run ``fn`` once, so that what it raises is raised before the first launch."""
        fn()

    def free_bytes(self) -> None:
        """Return None: recording allocates nothing."""


def capture_space(device: torch.device) -> CaptureSpace:
    """Return a new space for graphs of ``device``: CUDA graphs on CUDA, recorded calls elsewhere.

    Graphs of one space share a memory pool, so only graphs that never run at the same time may
    share a space.
    """
    return CudaSpace(device) if device.type == "cuda" else RecordSpace()
