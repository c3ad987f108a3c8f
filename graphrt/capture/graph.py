# SPDX-License-Identifier: Apache-2.0
"""A graph as a state machine, and its form for machines without a GPU.

    EMPTY ──begin──▶ CAPTURING ──end──▶ CAPTURED ──instantiate──▶ READY ⟲ upload, launch
      ▲                  │
      └──── failure ─────┘              close: from every state to CLOSED

`RecordedGraph` records calls and runs them at launch; `graphrt.capture.cuda_graph` captures a
CUDA graph. Both take the same moves and refuse the same ones.
"""

from __future__ import annotations

import contextlib
import enum
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeAlias

from graphrt.errors import CaptureError, sentence

Work: TypeAlias = Callable[[], object]


class GraphState(enum.Enum):
    """Where a graph is in its life."""

    EMPTY = "empty"
    CAPTURING = "capturing"
    CAPTURED = "captured"
    READY = "ready"
    CLOSED = "closed"


# The rule an illegal move breaks, and what to do instead. A move that is not listed for a state
# is legal in it; `close` always is.
_USED = "make another graph for other work"
_NEW = "make a new graph"
_ILLEGAL: dict[GraphState, dict[str, tuple[str, str]]] = {
    GraphState.EMPTY: {
        "run": ("run() needs a capture under way", "call begin() first, or capture(fn)"),
        "end": ("end() has no begin() before it", "call begin() and run(fn) first"),
        "instantiate": ("instantiate() needs captured work", "capture something first"),
        "upload": ("upload() needs an instantiated graph", "capture and instantiate() first"),
        "launch": ("launch() needs an instantiated graph", "capture and instantiate() first"),
    },
    GraphState.CAPTURING: {
        "begin": ("begin() was already called", "put work in with run(fn), then call end()"),
        "instantiate": ("instantiate() needs a capture that has ended", "call end() first"),
        "upload": ("upload() cannot happen during the capture", "call end(), instantiate() first"),
        "launch": ("launch() cannot happen during the capture", "call end(), instantiate() first"),
    },
    GraphState.CAPTURED: {
        "begin": ("begin() would overwrite the captured work", _USED),
        "run": ("run() comes too late, the capture has ended", _USED),
        "end": ("end() was already called", "call instantiate() next"),
        "upload": ("upload() needs an executable graph", "call instantiate() first"),
        "launch": ("launch() needs an executable graph", "call instantiate() first"),
    },
    GraphState.READY: {
        "begin": ("begin() would overwrite an instantiated graph", _USED),
        "run": ("run() comes too late, the graph is instantiated", _USED),
        "end": ("end() has nothing to end, the graph is instantiated", "call launch()"),
        "instantiate": ("instantiate() was already called", "call launch()"),
    },
    GraphState.CLOSED: {
        "begin": ("begin() on a graph that was closed", _NEW),
        "run": ("run() on a graph that was closed", _NEW),
        "end": ("end() on a graph that was closed", _NEW),
        "instantiate": ("instantiate() on a graph that was closed", _NEW),
        "upload": ("upload() on a graph that was closed", _NEW),
        "launch": ("launch() on a graph that was closed", _NEW),
        "keep": ("keep() on a graph that was closed would keep nothing", _NEW),
    },
}


class Graph(ABC):
    """Work that is captured once and launched many times.

    An illegal move raises CaptureError and changes nothing. When putting work in fails, the
    capture is abandoned: CaptureError is raised from the cause and the graph is empty again, to
    be begun anew. The capture belongs to the thread that began it. The graph keeps every callable
    put in, and with it all that the callable's closure reaches, until `close`; use `keep` for what
    no closure reaches. A graph that is not closed is closed when it is collected.
    """

    def __init__(self, name: str = "graph") -> None:
        """Make an empty graph; ``name`` is what error messages call it."""
        self.name = name
        self._state = GraphState.EMPTY
        self._kept: list[object] = []
        self._kept_before = 0
        self._thread = 0
        self._launcher: Callable[[], None] | None = None

    @property
    def state(self) -> GraphState:
        """Where this graph is in its life."""
        return self._state

    @property
    def kept(self) -> Sequence[object]:
        """What this graph keeps alive, for reading: callables put in, and what `keep` was given."""
        return tuple(self._kept)

    def begin(self) -> None:
        """Begin the capture."""
        self._require("begin")
        try:
            self._begin()
        except CaptureError:
            raise
        except Exception as cause:
            raise capture_failed(self.name, cause) from cause
        self._kept_before = len(self._kept)
        self._thread = threading.get_ident()
        self._state = GraphState.CAPTURING

    def run(self, fn: Work) -> None:
        """Put the work that ``fn()`` enqueues into the graph; several calls run in order.

        Everything that ``fn`` needs compiled, tuned or allocated lazily must have been run before:
        warming up is the caller's business.
        """
        self._require("run")
        self._require_thread("run")
        self._kept.append(fn)
        with self._abandoning():
            self._run(fn)

    def end(self) -> None:
        """End the capture."""
        self._require("end")
        self._require_thread("end")
        with self._abandoning():
            self._end()
        self._state = GraphState.CAPTURED

    def capture(self, fn: Work) -> None:
        """Begin, run ``fn``, end."""
        self.begin()
        self.run(fn)
        self.end()

    def instantiate(self) -> None:
        """Make the captured work executable. On failure the graph stays captured."""
        self._require("instantiate")
        self._launcher = self._instantiate()
        self._state = GraphState.READY

    def upload(self) -> None:
        """Move the graph to the device ahead of the first launch, on the current stream."""
        self._require("upload")
        self._upload()

    def launch(self) -> None:
        """Run the captured work, in order, on the caller's current stream, without waiting."""
        launch = self._launcher
        if launch is None:
            raise self._illegal("launch")
        launch()

    def keep(self, *objects: object) -> None:
        """Hold strong references to ``objects`` until the graph is closed.

        For what the graph points at and no callable put in reaches, such as compiled kernels.
        What was kept during a capture that failed is let go with it.
        """
        self._require("keep")
        self._kept.extend(objects)

    def close(self) -> None:
        """Wait for launches in flight, free the graph and let go of what it kept.

        A capture under way is abandoned first. Closing again does nothing.
        """
        if self._state is GraphState.CLOSED:
            return
        capturing = self._state is GraphState.CAPTURING
        if capturing:
            self._require_thread("close")
        self._state = GraphState.CLOSED
        self._launcher = None
        try:
            if capturing:
                self._abandon()
            self._release()
        finally:
            self._kept.clear()

    def __enter__(self) -> Self:
        """Return the graph itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the graph."""
        self.close()

    def __del__(self) -> None:
        """Close the graph; nothing can be raised from here."""
        # The constructor of a subclass may have failed before the state existed.
        if hasattr(self, "_launcher"):
            with contextlib.suppress(Exception):
                self.close()

    @abstractmethod
    def _begin(self) -> None:
        """Begin a capture, or raise and leave nothing behind."""

    @abstractmethod
    def _run(self, fn: Work) -> None:
        """Put ``fn`` into the capture."""

    @abstractmethod
    def _end(self) -> None:
        """End the capture; if this raises, `_abandon` follows."""

    @abstractmethod
    def _abandon(self) -> None:
        """Undo `_begin`, whatever state the capture is in, and raise nothing."""

    @abstractmethod
    def _instantiate(self) -> Callable[[], None]:
        """Make the work executable and return the call that launches it."""

    @abstractmethod
    def _upload(self) -> None:
        """Move the graph to the device."""

    @abstractmethod
    def _release(self) -> None:
        """Free whatever is held; no capture is under way."""

    def _illegal(self, move: str) -> CaptureError:
        rule, fix = _ILLEGAL[self._state][move]
        return CaptureError(sentence(self.name, self._state.value, rule, fix))

    def _require(self, move: str) -> None:
        if move in _ILLEGAL[self._state]:
            raise self._illegal(move)

    def _require_thread(self, move: str) -> None:
        if threading.get_ident() != self._thread:
            raise CaptureError(
                sentence(
                    self.name,
                    self._state.value,
                    f"{move}() on another thread than the one that began the capture",
                    "call it there",
                )
            )

    @contextlib.contextmanager
    def _abandoning(self) -> Iterator[None]:
        try:
            yield
        except BaseException as cause:
            self._state = GraphState.EMPTY
            self._abandon()
            del self._kept[self._kept_before :]
            if isinstance(cause, CaptureError) or not isinstance(cause, Exception):
                raise
            raise capture_failed(self.name, cause) from cause


def capture_failed(name: str, cause: Exception) -> CaptureError:
    """Return the error that says which capture ``cause`` ended; raise it from ``cause``."""
    # CUDA errors of PyTorch append lines of general advice.
    reason = str(cause).strip().partition("\n")[0]
    return CaptureError(
        sentence(
            name,
            f"{type(cause).__name__}: {reason}" if reason else type(cause).__name__,
            "a capture fails when what it captures does",
            "mend that and capture again, nothing of this attempt is left",
        )
    )


class RecordedGraph(Graph):
    """A graph on a machine without a GPU: the recorded calls, run in order at launch.

    Nothing is executed while recording, so an exception of a callable surfaces at launch, as it
    is. Calls work on the same static buffers every time, exactly as a captured graph does.
    """

    def __init__(self, name: str = "graph") -> None:
        """Make an empty graph."""
        super().__init__(name)
        self._calls: list[Work] = []

    def _begin(self) -> None:
        pass

    def _run(self, fn: Work) -> None:
        self._calls.append(fn)

    def _end(self) -> None:
        pass

    def _abandon(self) -> None:
        self._calls.clear()

    def _instantiate(self) -> Callable[[], None]:
        calls = tuple(self._calls)

        def launch() -> None:
            for call in calls:
                call()

        return launch

    def _upload(self) -> None:
        pass

    def _release(self) -> None:
        self._calls.clear()
