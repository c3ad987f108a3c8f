# SPDX-License-Identifier: Apache-2.0
"""One graph per (bucket, T), captured largest first into one memory pool."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from graphrt.capture.graph import Graph, Work, capture_failed
from graphrt.capture.space import CaptureSpace
from graphrt.errors import CaptureError, sentence
from graphrt.memory import format_bytes

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Recipe(Generic[V]):
    """What to capture for one (bucket, T).

    run: enqueues the work; called once, inside the capture. value: whatever the caller wants to
    find beside the graph, such as its static buffers; kept alive with it. warm_up: run for real
    before the capture, to compile, tune and allocate all that ``run`` needs; ``run`` itself where
    it is None, which must then do no harm when executed. keep: asked after the capture for objects
    that the graph points at and neither ``run`` nor ``value`` reaches, such as compiled kernels.
    check: given the captured graph, raises if it is not as it should be.
    """

    run: Work
    value: V
    warm_up: Work | None = None
    keep: Callable[[], Iterable[object]] = tuple
    check: Callable[[Graph], object] | None = None


@dataclass(frozen=True, slots=True)
class BucketGraph(Generic[V]):
    """An uploaded graph, ready to launch, with its recipe's value and the seconds it took.

    check_seconds: those of ``seconds`` that the recipe's check took.
    """

    bucket: int
    tokens: int
    graph: Graph
    value: V
    seconds: float
    check_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CaptureProgress:
    """One graph was captured: number ``done`` of ``total``, in ``seconds``.

    free_bytes is what the device has left after it, None where there is no device memory to take.
    """

    bucket: int
    tokens: int
    done: int
    total: int
    seconds: float
    free_bytes: int | None

    def __str__(self) -> str:
        """Return one line."""
        free = "" if self.free_bytes is None else f", {format_bytes(self.free_bytes)} free"
        return (
            f"captured {self.done:>{len(str(self.total))}}/{self.total}: "
            f"bucket {self.bucket}, T {self.tokens}, {self.seconds:.2f} s{free}"
        )


class BucketGraphs(Generic[V]):
    """The graphs of one runtime, by (bucket, T). They share a space, so none may overlap another.

    Iterating gives them in the order of capture. Close it, or use it as a context manager.
    """

    def __init__(self, space: CaptureSpace) -> None:
        """Hold no graph yet; ``space`` is where they will be captured."""
        self._space = space
        self._graphs: dict[tuple[int, int], BucketGraph[V]] = {}
        self._closed = False

    def capture(
        self,
        buckets: Sequence[int],
        tokens: Sequence[int],
        build: Callable[[int, int], Recipe[V]],
        progress: Callable[[CaptureProgress], object] | None = None,
    ) -> None:
        """Capture, instantiate and upload a graph for every pair of ``buckets`` and ``tokens``.

        Largest bucket first, then most tokens, so that the smaller graphs find the memory they
        need in the pool. For each pair: ``build(bucket, tokens)``, warm-up on the capture stream,
        capture, instantiate, upload, ``progress``. All or nothing: when anything raises, the
        graphs made by this call are closed and those from before stay. Raises CaptureError, from
        the cause, if building, warming up, capturing or checking fails, and at once for a pair
        that was captured before.
        """
        self._require_open()
        pairs = sorted({(b, t) for b in buckets for t in tokens}, reverse=True)
        for pair in pairs:
            if pair in self._graphs:
                raise CaptureError(
                    sentence(
                        "(bucket, tokens)", pair, "was captured already", "close the graphs first"
                    )
                )
        self._space.prepare()
        made: dict[tuple[int, int], BucketGraph[V]] = {}
        try:
            for pair in pairs:
                graph = made[pair] = self._capture_one(*pair, build)
                if progress is not None:
                    free_bytes = self._space.free_bytes()
                    progress(
                        CaptureProgress(*pair, len(made), len(pairs), graph.seconds, free_bytes)
                    )
        except BaseException:
            _close(made.values())
            raise
        self._graphs.update(made)

    def __getitem__(self, pair: tuple[int, int]) -> BucketGraph[V]:
        """Return the graph of (bucket, tokens). Raises CaptureError if there is none."""
        try:
            return self._graphs[pair]
        except KeyError:
            self._require_open()
            there = ", ".join(map(str, sorted(self._graphs))) or "none"
            raise CaptureError(
                sentence(
                    "(bucket, tokens)",
                    pair,
                    f"has no graph; captured: {there}",
                    "capture it, or launch one of those",
                )
            ) from None

    def __iter__(self) -> Iterator[BucketGraph[V]]:
        """Yield the graphs in the order of capture."""
        return iter(tuple(self._graphs.values()))

    def __len__(self) -> int:
        """Return the number of graphs."""
        return len(self._graphs)

    @property
    def seconds(self) -> float:
        """Seconds it took to make all graphs held."""
        return sum(graph.seconds for graph in self._graphs.values())

    def close(self) -> None:
        """Close every graph. Closing again does nothing."""
        self._closed = True
        graphs, self._graphs = self._graphs, {}
        _close(graphs.values())

    def __enter__(self) -> BucketGraphs[V]:
        """Return the object itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close every graph."""
        self.close()

    def _require_open(self) -> None:
        if self._closed:
            raise CaptureError(
                sentence("bucket graphs", "closed", "their graphs are gone", "make new ones")
            )

    def _capture_one(
        self, bucket: int, tokens: int, build: Callable[[int, int], Recipe[V]]
    ) -> BucketGraph[V]:
        name = f"graph of bucket {bucket}, T {tokens}"
        start = time.perf_counter()
        graph = self._space.graph(name)
        try:
            recipe = build(bucket, tokens)
            self._space.warm_up(recipe.warm_up or recipe.run)
            graph.capture(recipe.run)
            graph.keep(recipe.value, *recipe.keep())
            check_seconds = _timed(recipe.check, graph) if recipe.check is not None else 0.0
            graph.instantiate()
            graph.upload()
        except BaseException as cause:
            graph.close()
            if isinstance(cause, CaptureError) or not isinstance(cause, Exception):
                raise
            raise capture_failed(name, cause) from cause
        seconds = time.perf_counter() - start
        return BucketGraph(bucket, tokens, graph, recipe.value, seconds, check_seconds)


def _timed(check: Callable[[Graph], object], graph: Graph) -> float:
    start = time.perf_counter()
    check(graph)
    return time.perf_counter() - start


def _close(graphs: Iterable[BucketGraph[V]]) -> None:
    for bucket_graph in graphs:
        bucket_graph.graph.close()
