# SPDX-License-Identifier: Apache-2.0
"""As much of torch.cuda and of the driver as a capture goes through, with its bookkeeping.

The bookkeeping is PyTorch's: pools counted by use, pools that allocations are routed to, and the
two ways in which ``capture_end`` leaves them when the capture it ends was broken.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

from graphrt.capture import cuda_graph
from graphrt.errors import DriverError

DEFAULT, SIDE = 0, 1


class FakeStream:
    """A stream is a number here; waiting is remembered."""

    def __init__(self, device: object = None) -> None:
        self.cuda_stream = SIDE

    def wait_stream(self, other: int) -> None:
        pass

    def synchronize(self) -> None:
        pass


class FakeTorchGraph:
    """torch.cuda.CUDAGraph."""

    def __init__(self, cuda: FakeCuda, keep_graph: bool) -> None:
        assert keep_graph
        self.cuda = cuda
        self.known = False  # PyTorch knows of a capture under way for this object
        self.ended = False

    def capture_begin(self, pool: int, capture_error_mode: str) -> None:
        cuda = self.cuda
        assert cuda.current == SIDE and capture_error_mode == "thread_local"
        if cuda.pool_uses.get(pool) == 0:
            raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")
        if pool in cuda.routed:
            raise RuntimeError("already recording to mempool_id")
        self.pool = pool
        cuda.pool_uses[pool] = cuda.pool_uses.get(pool, 0) + 1
        cuda.routed.add(pool)
        if cuda.begin_fails or cuda.capture is not None:
            raise RuntimeError("CUDA error: operation would make the legacy stream depend")
        cuda.capture = "active"
        cuda.generators_capturing = True
        self.known = True

    def capture_end(self) -> None:
        cuda = self.cuda
        assert cuda.current == SIDE
        good = cuda.capture == "active"
        empty = not cuda.enqueued
        cuda.end_stream_capture()
        if cuda.forgets_before_raising:  # from 2.12 on
            known, self.known = self.known, False
            cuda.routed.discard(self.pool)
            if not known:
                raise RuntimeError("capture_end() called before capture_begin().")
        if not good:
            raise RuntimeError("CUDA error: operation failed due to a previous error\nadvice")
        if not cuda.forgets_before_raising:
            if not self.known:
                raise RuntimeError("capture_end() called before capture_begin().")
            self.known = False
            cuda.routed.discard(self.pool)
        cuda.generators_capturing = False
        if empty:
            warnings.warn("The CUDA Graph is empty. This usually means", stacklevel=1)
        self.ended = True

    def raw_cuda_graph(self) -> int:
        assert self.ended
        return id(self)

    def reset(self) -> None:
        if self.ended:
            self.cuda.pool_uses[self.pool] -= 1
            self.ended = False


class FakeCuda:
    """One device with one side stream, and every call that was made of it."""

    def __init__(self, forgets_before_raising: bool) -> None:
        self.forgets_before_raising = forgets_before_raising
        self.current = DEFAULT
        self.capture: str | None = None  # active, invalid, or unjoined: valid until it is ended
        self.enqueued = 0
        self.generators_capturing = False
        self.pool_uses: dict[int, int] = {}
        self.routed: set[int] = set()
        self.begin_fails = False
        self.instantiate_fails = False
        self.calls: list[str] = []
        self.live_executables: set[int] = set()

    def end_stream_capture(self) -> None:
        self.capture = None
        self.enqueued = 0

    def enqueue(self) -> None:
        """Do some work on the current stream."""
        if self.current == SIDE and self.capture:
            self.enqueued += 1
        self.calls.append(f"work on {self.current}")

    def synchronize(self, device: object = None) -> None:
        """torch.cuda.synchronize."""
        self.calls.append("synchronize")
        if self.capture is not None:
            self.capture = "invalid"
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def usable(self) -> bool:
        """Whether nothing of any capture is left but pools in use by finished graphs."""
        return not (self.capture or self.routed or self.generators_capturing)

    @property
    def leaked_pools(self) -> int:
        return sum(uses > 0 for uses in self.pool_uses.values())

    @contextlib.contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream.cuda_stream
        try:
            yield
        finally:
            self.current = before

    def driver(self) -> SimpleNamespace:
        """graphrt.capture.driver, as far as a graph uses it."""

        def begin_capture(stream: int) -> None:
            assert self.capture is None and stream == SIDE
            self.capture = "active"

        def instantiate(graph: int) -> int:
            if self.instantiate_fails:
                raise DriverError("cudaGraphInstantiate=cudaErrorMemoryAllocation: out of memory")
            executable = 100 + len(self.calls)
            self.live_executables.add(executable)
            self.calls.append("instantiate")
            return executable

        def launcher(executable: int, device_index: int) -> Callable[[], None]:
            def launch() -> None:
                assert executable in self.live_executables
                self.calls.append("launch")

            return launch

        return SimpleNamespace(
            is_capturing=lambda stream: self.capture in ("active", "unjoined"),
            begin_capture=begin_capture,
            drop_capture=lambda stream: self.end_stream_capture(),
            instantiate=instantiate,
            launcher=launcher,
            upload=lambda executable, stream: self.calls.append(f"upload on {stream}"),
            destroy=lambda executable: self.live_executables.remove(executable),
            current_stream=lambda index: self.current,
            relaxed_capture=contextlib.nullcontext,
        )


def install(monkeypatch: pytest.MonkeyPatch, *, forgets_before_raising: bool) -> FakeCuda:
    """Put a FakeCuda in the place of torch.cuda and of the driver."""
    cuda = FakeCuda(forgets_before_raising)
    pools = iter(range(1, 1000))
    for name, value in {
        "Stream": FakeStream,
        "stream": cuda.stream,
        "current_stream": lambda device=None: cuda.current,
        "CUDAGraph": lambda keep_graph: FakeTorchGraph(cuda, keep_graph),
        "graph_pool_handle": lambda: next(pools),
        "synchronize": cuda.synchronize,
        "empty_cache": lambda: cuda.calls.append("empty cache"),
        "is_current_stream_capturing": lambda: cuda.current == SIDE and cuda.capture is not None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(cuda_graph, "driver", cuda.driver())
    monkeypatch.setattr(cuda_graph, "_unfinished", [])
    return cuda
