# SPDX-License-Identifier: Apache-2.0
"""HostQueue: small integers from the host to the device, at the price of one graph launch.

A fresh pinned tensor, its copy and a kernel launch cost the host more than ten times what launching
a captured chain does. Here the pinned memory, and a graph that reads it, are made once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphrt.capture.graph import Graph
from graphrt.capture.space import CaptureSpace

_DEPTH = 8


@dataclass(slots=True)
class _Entry:
    """One message's memory, the graph that reads it, and when that was done last."""

    values: NDArray[np.int32]
    graph: Graph
    done: torch.cuda.Event | None


class HostQueue:
    """Sends lists of ``length`` int32 to ``read``, which is captured once for each place in line.

    read: enqueues device work over a (length,) int32 tensor in host memory that the device sees,
    and returns an object to keep alive, or None. It is run once while warming up, on a message
    that is ``idle`` throughout, and must do no harm with that. Up to eight messages are on their
    way without `send` waiting for the device.
    """

    def __init__(
        self,
        space: CaptureSpace,
        device: torch.device,
        length: int,
        read: Callable[[Tensor], object],
        idle: int,
    ) -> None:
        """Allocate and capture."""
        self._next = 0
        self._entries: list[_Entry] = []
        on_cuda = device.type == "cuda"
        for _ in range(_DEPTH if on_cuda else 1):
            values = torch.full((length,), idle, dtype=torch.int32, pin_memory=on_cuda)
            if not self._entries:
                kept = _warm_up(space, read, values)
            graph = space.graph("host queue")
            graph.capture(partial(read, values))
            graph.keep(values, kept)
            graph.instantiate()
            graph.upload()
            self._entries.append(
                _Entry(values.numpy(), graph, torch.cuda.Event() if on_cuda else None)
            )

    def send(self, values: Sequence[int]) -> None:
        """Enqueue ``read`` of ``values``, ``length`` long, on the current stream."""
        entry = self._entries[self._next]
        self._next = (self._next + 1) % len(self._entries)
        if entry.done is not None:
            entry.done.synchronize()
        entry.values[:] = values
        entry.graph.launch()
        if entry.done is not None:
            entry.done.record()

    def close(self) -> None:
        """Close the graphs. Closing again does nothing."""
        for entry in self._entries:
            entry.graph.close()


def _warm_up(space: CaptureSpace, read: Callable[[Tensor], object], values: Tensor) -> object:
    kept: list[object] = []
    space.warm_up(lambda: kept.append(read(values)))
    return kept
