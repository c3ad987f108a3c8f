# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: PyTorch captures and owns the memory, cuda-python instantiates and launches."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from graphrt.capture import driver
from graphrt.capture.graph import Graph, GraphState, Work
from graphrt.errors import CaptureError, sentence
from graphrt.memory import free_bytes

_log = logging.getLogger("graphrt")

# PyTorch's opaque token for a memory pool.
PoolId: TypeAlias = Any


class CudaSpace:
    """What the graphs of one device share: the stream they are captured on and a memory pool.

    One stream, because PyTorch's allocator does not reuse a block on another stream than it was
    freed on, and keeps one cuBLAS workspace a stream. Sharing the pool means that two graphs of
    one space must not run at the same time: each may use the memory of the other's temporaries.
    One capture at a time.
    """

    def __init__(self, device: torch.device) -> None:
        """Make the stream; ``device`` is a CUDA device, without an index the current one."""
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        self.stream = torch.cuda.Stream(self.device)
        self.capturing = False
        self._pool: PoolId | None = None
        self._pool_users = 0

    def graph(self, name: str = "graph") -> CudaGraph:
        """Return an empty graph that will be captured here."""
        return CudaGraph(self, name)

    def prepare(self) -> None:
        """Collect garbage and return cached memory, so that captures find it free. Waits."""
        gc.collect()
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()

    def warm_up(self, fn: Work) -> None:
        """Run ``fn`` on the capture stream, after what the current stream holds, and wait for it.

        On the capture stream, because what libraries set up lazily for a stream (cuBLAS its
        workspace) would otherwise be set up during the capture and live in the graph's pool.
        """
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            fn()
        self.stream.synchronize()

    def free_bytes(self) -> int:
        """Return the bytes that can still be allocated on the device."""
        return free_bytes(self.device)

    def claim(self) -> PoolId:
        """Claim the stream for one capture, until `end`; return the pool, until `release`."""
        if self.capturing:
            raise CaptureError(
                sentence(
                    str(self.device),
                    "capturing",
                    "graphs that share a stream and a pool are captured one after the other",
                    "end the other capture first",
                )
            )
        # An id whose last graph is gone must not be used again: PyTorch refuses it.
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        self._pool_users += 1
        self.capturing = True
        return self._pool

    def end(self) -> None:
        """Let the next capture begin."""
        self.capturing = False

    def release(self, pool: PoolId, *, usable: bool = True) -> None:
        """Say that a graph no longer uses ``pool``, and whether later graphs may."""
        if pool != self._pool:
            return
        self._pool_users -= 1
        if not usable or not self._pool_users:
            self._pool = None
            self._pool_users = 0


class CudaGraph(Graph):
    """A CUDA graph captured in a `CudaSpace`; the moves are those of `Graph`.

    Callables run while the space's stream is current; they may allocate through PyTorch, the
    memory stays the graph's. Nothing in them may synchronise, wait for an event of work outside
    the capture, or copy from unpinned memory. They must not draw from PyTorch's own random
    generators: only ``torch.cuda.CUDAGraph.replay`` advances those.

    The garbage collector is paused during the capture: a Triton kernel collected then would have
    its module unloaded, which invalidates the capture.
    """

    def __init__(self, space: CudaSpace, name: str = "graph") -> None:
        """Make an empty graph to be captured in ``space``."""
        super().__init__(name)
        self._space = space
        self._pool: PoolId | None = None
        self._torch_graph: torch.cuda.CUDAGraph | None = None
        self._executable = 0

    @property
    def torch_graph(self) -> torch.cuda.CUDAGraph:
        """PyTorch's graph object, for reading; this graph owns it. Needs captured work."""
        if self._torch_graph is None or self._state is GraphState.CAPTURING:
            raise CaptureError(
                sentence(
                    self.name,
                    self._state.value,
                    "only captured work has a handle to read",
                    "capture something first, and read before close()",
                )
            )
        return self._torch_graph

    @property
    def raw_graph(self) -> int:
        """The cudaGraph_t, for reading; valid until `close`. Needs captured work."""
        return int(self.torch_graph.raw_cuda_graph())

    def _begin(self) -> None:
        stream = self._space.stream
        stream.wait_stream(torch.cuda.current_stream(self._space.device))
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        self._pool = self._space.claim()
        self._torch_graph = graph
        _pause_collector()
        try:
            with torch.cuda.stream(stream):
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        except BaseException:
            self._abandon()
            raise

    def _run(self, fn: Work) -> None:
        with torch.cuda.stream(self._space.stream):
            fn()
        self._require_valid()

    def _end(self) -> None:
        self._require_valid()
        assert self._torch_graph is not None  # begun
        with torch.cuda.stream(self._space.stream):
            self._torch_graph.capture_end()
        _resume_collector()
        self._space.end()

    def _require_valid(self) -> None:
        if not driver.is_capturing(self._space.stream.cuda_stream):
            raise CaptureError(
                sentence(
                    self.name,
                    "invalidated capture",
                    "nothing may synchronise, query the device or free memory in a capture",
                    "warm up first and keep .item(), .cpu(), print and synchronize() out of it",
                )
            )

    def _abandon(self) -> None:
        graph, pool = self._torch_graph, self._pool
        self._torch_graph = self._pool = None
        if graph is None or pool is None:
            return
        stream = self._space.stream
        raw = stream.cuda_stream
        usable = False
        try:
            # PyTorch undoes what a capture set up (routing of allocations, use of the pool, state
            # of the generators) only when the capture ends well, and an invalidated one does not.
            # So the broken one is ended here, and PyTorch is given an empty one to end.
            with torch.cuda.stream(stream), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The CUDA Graph is empty")
                driver.drop_capture(raw)
                driver.begin_capture(raw)
                graph.capture_end()
            usable = True
        except RuntimeError as error:
            _log.warning(
                "%s: the memory pool of a failed capture is left unused until the process ends: %s",
                self.name,
                error,
            )
            # The allocator may still point at the object.
            _unfinished.append(graph)
            with contextlib.suppress(RuntimeError):
                driver.drop_capture(raw)
        finally:
            _resume_collector()
            self._space.end()
            with contextlib.suppress(RuntimeError):
                graph.reset()
            self._space.release(pool, usable=usable)

    def _instantiate(self) -> Callable[[], None]:
        self._executable = driver.instantiate(self.raw_graph)
        return driver.launcher(self._executable, self._index)

    def _upload(self) -> None:
        driver.upload(self._executable, driver.current_stream(self._index))

    def _release(self) -> None:
        graph, pool, executable = self._torch_graph, self._pool, self._executable
        self._torch_graph = self._pool = None
        self._executable = 0
        if graph is None or pool is None:
            return
        # Every step is taken, in reverse, whichever of them raises. Another capture of this thread
        # may be under way.
        with driver.relaxed_capture(), contextlib.ExitStack() as steps:
            steps.callback(self._space.release, pool)
            steps.callback(graph.reset)
            if executable:
                steps.callback(driver.destroy, executable)
                # Memory and kernels go next, and a launch may still use them. But waiting would
                # invalidate the other capture.
                if not (self._space.capturing or torch.cuda.is_current_stream_capturing()):
                    torch.cuda.synchronize(self._space.device)

    @property
    def _index(self) -> int:
        return int(self._space.device.index)


# Graphs whose capture PyTorch could not be made to end.
_unfinished: list[torch.cuda.CUDAGraph] = []

_pause_lock = threading.Lock()
_pauses = 0
_collector_was_on = False


def _pause_collector() -> None:
    """Stop the garbage collector until `_resume_collector` was called as often."""
    global _pauses, _collector_was_on
    with _pause_lock:
        if not _pauses:
            _collector_was_on = gc.isenabled()
            gc.disable()
        _pauses += 1


def _resume_collector() -> None:
    """Undo one `_pause_collector`; the last one starts the collector if it was on."""
    global _pauses
    with _pause_lock:
        _pauses -= 1
        if not _pauses and _collector_was_on:
            gc.enable()
