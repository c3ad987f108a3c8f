# SPDX-License-Identifier: Apache-2.0
"""One graph per (bucket, T), with toy callables."""

import gc
import weakref
from collections.abc import Callable
from itertools import count

import pytest
import torch

from graphrt.capture import bucket_graphs as module
from graphrt.capture.bucket_graphs import BucketGraphs, CaptureProgress, Recipe
from graphrt.capture.graph import GraphState, RecordedGraph
from graphrt.capture.space import CaptureSpace, RecordSpace, capture_space
from graphrt.errors import CaptureError


class Space(RecordSpace):
    """Remembers the graphs it made and the order of what happened."""

    def __init__(self) -> None:
        self.made: list[RecordedGraph] = []
        self.events: list[str] = []

    def graph(self, name: str = "graph") -> RecordedGraph:
        self.made.append(super().graph(name))
        return self.made[-1]

    def prepare(self) -> None:
        self.events.append("prepare")

    def warm_up(self, fn: Callable[[], object]) -> None:
        self.events.append("warm up")
        fn()


class Toy:
    """A step that counts, by (bucket, T), and fails where it is told to."""

    def __init__(self, fail_at: tuple[int, int] | None = None, fail_in: str = "") -> None:
        self.fail_at = fail_at
        self.fail_in = fail_in
        self.built: list[tuple[int, int]] = []

    def build(self, bucket: int, tokens: int) -> Recipe[torch.Tensor]:
        self.built.append((bucket, tokens))
        out = torch.zeros(bucket)

        def fail(where: str) -> None:
            if (bucket, tokens) == self.fail_at and where == self.fail_in:
                raise ValueError(f"broken {where}")

        def run() -> None:
            out.add_(tokens)

        def warm_up() -> None:
            fail("warm-up")

        def keep() -> tuple[object, ...]:
            fail("keep")
            return ()

        fail("build")
        return Recipe(run, out, warm_up, keep)


def test_capture_goes_from_the_largest_down() -> None:
    toy = Toy()
    with BucketGraphs[torch.Tensor](RecordSpace()) as graphs:
        graphs.capture((1, 2, 4), (1, 3), toy.build)
        order = [(4, 3), (4, 1), (2, 3), (2, 1), (1, 3), (1, 1)]
        assert toy.built == order
        assert [(graph.bucket, graph.tokens) for graph in graphs] == order
        assert len(graphs) == 6


def test_each_graph_launches_its_own_work_over_its_own_value() -> None:
    with BucketGraphs[torch.Tensor](RecordSpace()) as graphs:
        graphs.capture((1, 4), (1, 3), Toy().build)
        graphs[4, 3].graph.launch()
        graphs[4, 3].graph.launch()
        graphs[1, 1].graph.launch()
        assert graphs[4, 3].value.tolist() == [6.0] * 4
        assert graphs[1, 1].value.tolist() == [1.0]
        assert graphs[4, 1].value.tolist() == [0.0] * 4


def test_every_graph_is_warmed_up_once_just_before_its_capture() -> None:
    space = Space()

    def build(bucket: int, tokens: int) -> Recipe[None]:
        return Recipe(
            run=lambda: None,
            value=None,
            warm_up=lambda: space.events.append(f"{bucket}: {space.made[-1].state.value}"),
        )

    BucketGraphs[None](space).capture((1, 2), (1,), build)
    assert space.events == ["prepare", "warm up", "2: empty", "warm up", "1: empty"]


def test_run_is_its_own_warm_up_where_there_is_none() -> None:
    runs: list[int] = []
    graphs = BucketGraphs[None](RecordSpace())
    graphs.capture((1,), (1,), lambda bucket, tokens: Recipe(lambda: runs.append(1), None))
    assert runs == [1]


def test_progress_says_what_was_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count()
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock) * 0.25)
    seen: list[CaptureProgress] = []
    graphs = BucketGraphs[torch.Tensor](RecordSpace())
    graphs.capture((1, 2), (3,), Toy().build, seen.append)
    assert seen == [
        CaptureProgress(2, 3, done=1, total=2, seconds=0.25, free_bytes=None),
        CaptureProgress(1, 3, done=2, total=2, seconds=0.25, free_bytes=None),
    ]
    assert graphs.seconds == 0.5


def test_a_progress_line_reads_well() -> None:
    here = CaptureProgress(8, 6, done=3, total=14, seconds=0.1234, free_bytes=3 << 30)
    assert str(here) == "captured  3/14: bucket 8, T 6, 0.12 s, 3.0 GiB free"
    without = CaptureProgress(8, 6, done=14, total=14, seconds=2.0, free_bytes=None)
    assert str(without) == "captured 14/14: bucket 8, T 6, 2.00 s"


@pytest.mark.parametrize("fail_in", ["build", "warm-up", "keep"])
def test_a_failure_closes_the_graphs_of_this_call_and_keeps_the_others(fail_in: str) -> None:
    space = Space()
    graphs = BucketGraphs[torch.Tensor](space)
    graphs.capture((1, 2), (1,), Toy().build)
    before = list(graphs)

    message = f"^graph of bucket 2, T 5=ValueError: broken {fail_in}: "
    with pytest.raises(CaptureError, match=message) as caught:
        graphs.capture((1, 2, 4), (5,), Toy((2, 5), fail_in).build)
    assert isinstance(caught.value.__cause__, ValueError)
    assert list(graphs) == before
    assert [graph.state for graph in space.made] == [
        GraphState.READY,
        GraphState.READY,
        GraphState.CLOSED,
        GraphState.CLOSED,
    ]

    graphs.capture((1, 2, 4), (5,), Toy().build)  # and it can be tried again
    assert len(graphs) == 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, LookupError])
def test_what_progress_raises_undoes_the_call_too(error: type[BaseException]) -> None:
    def progress(report: CaptureProgress) -> None:
        if report.done == 2:
            raise error

    space = Space()
    graphs = BucketGraphs[torch.Tensor](space)
    with pytest.raises(error):
        graphs.capture((1, 2, 4), (1,), Toy().build, progress)
    assert len(graphs) == 0
    assert [graph.state for graph in space.made] == [GraphState.CLOSED] * 2


def test_a_pair_is_captured_once() -> None:
    graphs = BucketGraphs[torch.Tensor](RecordSpace())
    graphs.capture((2,), (1,), Toy().build)
    toy = Toy()
    with pytest.raises(CaptureError, match=r"\(bucket, tokens\)=\(2, 1\): was captured already"):
        graphs.capture((1, 2), (1, 4), toy.build)
    assert toy.built == []


def test_an_uncaptured_pair_is_named_beside_those_there_are() -> None:
    graphs = BucketGraphs[torch.Tensor](RecordSpace())
    with pytest.raises(CaptureError, match=r"=\(1, 1\): has no graph; captured: none; "):
        graphs[1, 1]
    graphs.capture((1, 2), (3,), Toy().build)
    with pytest.raises(CaptureError, match=r"=\(1, 1\): has no graph; captured: \(1, 3\), \(2, 3"):
        graphs[1, 1]


def test_closing_closes_every_graph_and_refuses_what_follows() -> None:
    space = Space()
    graphs = BucketGraphs[torch.Tensor](space)
    graphs.capture((1, 2), (1,), Toy().build)
    graphs.close()
    graphs.close()
    assert [graph.state for graph in space.made] == [GraphState.CLOSED] * 2
    assert len(graphs) == 0
    with pytest.raises(CaptureError, match="bucket graphs=closed"):
        graphs[1, 1]
    with pytest.raises(CaptureError, match="bucket graphs=closed"):
        graphs.capture((1,), (1,), Toy().build)


def test_the_graph_keeps_what_the_recipe_names() -> None:
    class Kernel:
        pass

    kernel = Kernel()
    watched = weakref.ref(kernel)
    keep: list[object] = [kernel]
    graphs = BucketGraphs[None](RecordSpace())
    graphs.capture((1,), (1,), lambda bucket, tokens: Recipe(lambda: None, None, None, keep.copy))
    keep.clear()
    del kernel
    gc.collect()
    assert watched() is not None
    graphs.close()
    gc.collect()
    assert watched() is None


def test_the_space_of_a_cpu_records() -> None:
    space: CaptureSpace = capture_space(torch.device("cpu"))
    space.prepare()
    assert isinstance(space.graph(), RecordedGraph)
    assert space.free_bytes() is None
