# SPDX-License-Identifier: Apache-2.0
"""Captures and launches on a GPU: above all that nothing that fails leaves anything behind."""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from graphrt.capture import driver
from graphrt.capture.bucket_graphs import BucketGraphs, CaptureProgress, Recipe
from graphrt.capture.buffers import fill
from graphrt.capture.cuda_graph import CudaGraph, CudaSpace
from graphrt.capture.graph import GraphState
from graphrt.errors import CaptureError

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

pytestmark = pytest.mark.gpu

BIG = 16 << 20  # elements of a temporary whose leak would be seen


@pytest.fixture
def space() -> Iterator[CudaSpace]:
    yield CudaSpace(torch.device("cuda"))
    torch.cuda.synchronize()


@pytest.fixture
def x() -> Tensor:
    return torch.zeros(8, device="cuda")


def good_capture(space: CudaSpace, x: Tensor) -> CudaGraph:
    """Return a ready graph that adds 1 to ``x`` by way of a temporary."""
    graph = space.graph("toy")
    graph.capture(lambda: x.add_(torch.ones_like(x)))
    graph.instantiate()
    return graph


def reserved_bytes() -> int:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()


def check_everything_works(space: CudaSpace, x: Tensor) -> None:
    """Check stream, allocator, generators, collector and pool after a capture went wrong."""
    torch.cuda.synchronize()
    assert not driver.is_capturing(space.stream.cuda_stream)
    assert gc.isenabled()
    with torch.cuda.stream(space.stream):
        assert torch.ones(4, device="cuda").sum().item() == 4
    assert torch.rand(4, device="cuda").max().item() < 1.0
    x.zero_()
    with good_capture(space, x) as graph:
        graph.upload()
        graph.launch()
        graph.launch()
        assert x.tolist() == [2.0] * 8


# --- ways for a capture to fail ------------------------------------------------------------------


def raising(x: Tensor) -> None:
    x.add_(torch.ones(BIG, device="cuda")[:8])
    raise ValueError("broken step")


def synchronising(x: Tensor) -> None:
    x.add_(torch.ones(BIG, device="cuda")[:8])
    torch.cuda.synchronize()


def reading_back(x: Tensor) -> None:
    x.add_(torch.ones(BIG, device="cuda")[:8])
    x[0].item()


def synchronising_in_silence(x: Tensor) -> None:
    x.add_(torch.ones(BIG, device="cuda")[:8])
    with contextlib.suppress(RuntimeError):
        torch.cuda.synchronize()


def raising_between_fork_and_join(x: Tensor) -> None:
    fork(x)
    raise ValueError("broken step")


def drawing_and_raising(x: Tensor) -> None:
    torch.rand(8, device="cuda", out=x)
    raise ValueError("broken step")


def fork(x: Tensor) -> None:
    other = torch.cuda.Stream()
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        x.add_(1)


FAILURES: list[tuple[Callable[[Tensor], None], str]] = [
    (raising, "toy=ValueError: broken step"),
    (synchronising, "toy=.*Error: CUDA error: operation not permitted"),
    (reading_back, "toy=.*Error: CUDA error: "),
    (synchronising_in_silence, "toy=invalidated capture"),
    (raising_between_fork_and_join, "toy=ValueError: broken step"),
    (drawing_and_raising, "toy=ValueError: broken step"),
]


@pytest.mark.parametrize(("step", "message"), FAILURES, ids=[f[0].__name__ for f in FAILURES])
@pytest.mark.parametrize("shared", [False, True], ids=["alone in the pool", "beside another"])
def test_a_failed_capture_leaves_everything_usable_and_no_memory(
    step: Callable[[Tensor], None], message: str, shared: bool, space: CudaSpace, x: Tensor
) -> None:
    y = torch.zeros(8, device="cuda")
    other = good_capture(space, y) if shared else None
    check_everything_works(space, x)
    before = reserved_bytes()
    for _ in range(3):
        graph = space.graph("toy")
        with pytest.raises(CaptureError, match=message):
            graph.capture(lambda: step(x))
        assert graph.state is GraphState.EMPTY
        check_everything_works(space, x)
        x.zero_()
        graph.capture(lambda: x.add_(3))  # the same object, too
        graph.instantiate()
        graph.launch()
        assert x.tolist() == [3.0] * 8
        graph.close()
        del graph
    if other is not None:
        other.launch()
        assert y.tolist() == [1.0] * 8
        other.close()
    assert reserved_bytes() <= before


def test_work_that_is_never_joined_fails_at_the_end(space: CudaSpace, x: Tensor) -> None:
    other = good_capture(space, x)
    graph = space.graph("toy")
    graph.begin()
    graph.run(lambda: fork(x))
    with pytest.raises(CaptureError, match="toy="):
        graph.end()
    assert graph.state is GraphState.EMPTY
    check_everything_works(space, x)
    other.launch()
    torch.cuda.synchronize()


def test_a_capture_broken_outside_of_run_is_found_at_the_end(space: CudaSpace, x: Tensor) -> None:
    graph = space.graph("toy")
    graph.begin()
    graph.run(lambda: x.add_(1))
    with pytest.raises(RuntimeError):
        torch.cuda.synchronize()
    with pytest.raises(CaptureError, match="toy=invalidated capture"):
        graph.end()
    check_everything_works(space, x)


# --- the garbage collector, closing --------------------------------------------------------------


def test_garbage_is_not_collected_during_a_capture(space: CudaSpace, x: Tensor) -> None:
    during: list[bool] = []

    class Harmful:
        """In a cycle, so that only the collector can free it; synchronises when it is freed."""

        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            capturing = driver.is_capturing(space.stream.cuda_stream)
            during.append(capturing)
            if capturing:
                torch.cuda.synchronize()

    def step() -> None:
        for _ in range(100):
            Harmful()
            litter = [[] for _ in range(1000)]  # enough to start a collection
            del litter
        x.add_(1)

    graph = space.graph("toy")
    before = gc.get_threshold()
    gc.set_threshold(10)
    try:
        graph.capture(step)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert during == [False] * 100
    graph.instantiate()
    graph.launch()
    assert x.tolist() == [1.0] * 8


def test_close_during_a_capture(space: CudaSpace, x: Tensor) -> None:
    graph = space.graph("toy")
    graph.begin()
    graph.run(lambda: x.add_(torch.ones(BIG, device="cuda")[:8]))
    graph.close()
    graph.close()
    assert graph.state is GraphState.CLOSED
    check_everything_works(space, x)


def test_closing_another_graph_during_a_capture(space: CudaSpace, x: Tensor) -> None:
    other = good_capture(space, x)
    graph = space.graph("toy")
    graph.begin()
    graph.run(lambda: x.add_(1))
    other.close()
    graph.run(lambda: x.add_(1))
    graph.end()
    graph.instantiate()
    x.zero_()
    graph.launch()
    assert x.tolist() == [2.0] * 8


def test_close_waits_for_the_launch_and_use_after_it_is_refused(
    space: CudaSpace, x: Tensor
) -> None:
    def slow() -> None:
        torch.cuda._sleep(50_000_000)
        x.add_(1)

    graph = space.graph("toy")
    graph.capture(slow)
    graph.instantiate()
    graph.launch()
    graph.close()
    assert torch.cuda.current_stream().query()
    graph.close()
    for move in (graph.launch, graph.upload, graph.instantiate, graph.begin, graph.end):
        with pytest.raises(CaptureError, match="toy=closed"):
            move()
    assert x.tolist() == [1.0] * 8


def test_memory_is_flat_over_many_captures(space: CudaSpace, x: Tensor) -> None:
    def once() -> None:
        graph = space.graph()
        graph.capture(lambda: x.add_(torch.ones(BIG, device="cuda")[:8]))
        graph.instantiate()
        graph.launch()
        graph.close()

    once()
    before = reserved_bytes()
    for _ in range(20):
        once()
    assert reserved_bytes() <= before


# --- launching -----------------------------------------------------------------------------------


def test_a_launch_is_in_order_on_the_stream_it_is_made_on(space: CudaSpace, x: Tensor) -> None:
    graph = good_capture(space, x)
    torch.cuda.synchronize()
    for stream in (torch.cuda.Stream(), torch.cuda.Stream(), torch.cuda.default_stream()):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)  # on any other stream the launch would come first
            x.fill_(10)
            graph.launch()
        torch.cuda.synchronize()
        assert x.tolist() == [11.0] * 8


def test_a_launch_costs_the_host_no_more_than_replay(space: CudaSpace, x: Tensor) -> None:
    graph = space.graph("toy")
    graph.capture(lambda: [x.add_(1) for _ in range(3)])
    graph.instantiate()
    graph.upload()
    graph.torch_graph.instantiate()

    def median_us(launch: Callable[[], None]) -> float:
        samples = []
        for _ in range(500):
            start = time.perf_counter_ns()
            launch()
            samples.append(time.perf_counter_ns() - start)
            torch.cuda.synchronize()
        return statistics.median(samples) / 1000

    pairs = [(median_us(graph.launch), median_us(graph.torch_graph.replay)) for _ in range(5)]
    ours, theirs = (min(side) for side in zip(*pairs, strict=True))
    assert ours <= theirs, f"launch {ours:.2f} us, replay {theirs:.2f} us"


# --- reading -------------------------------------------------------------------------------------


@triton.jit
def _add_one(pointer, count: tl.constexpr):
    offsets = tl.program_id(0) * count + tl.arange(0, count)
    tl.store(pointer + offsets, tl.load(pointer + offsets) + 1)


@pytest.mark.parametrize("pdl", [False, True])
def test_nodes_kernels_and_edges_are_read_back(pdl: bool, space: CudaSpace, x: Tensor) -> None:
    if pdl and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("programmatic dependent launch needs sm_90")

    def step() -> None:
        for _ in range(3):
            _add_one[(2,)](x, 4, num_warps=4, launch_pdl=pdl)

    space.warm_up(step)
    with space.graph("toy") as graph:
        graph.capture(step)
        nodes = driver.nodes(graph.raw_graph)
        assert [driver.node_type(node) for node in nodes] == ["kernel"] * 3
        kernel = driver.kernel(nodes[0])
        assert (kernel.name, kernel.grid, kernel.block) == ("_add_one", (2, 1, 1), (128, 1, 1))
        edges = driver.edges(graph.raw_graph)
        assert len(edges) == 2
        assert {edge.source for edge in edges} | {edge.target for edge in edges} == set(nodes)
        assert [edge.programmatic for edge in edges] == [pdl, pdl]
        assert [(edge.from_port, edge.to_port) for edge in edges] == [(int(pdl), 0)] * 2


@triton.jit
def _wait_and_double(pointer, count: tl.constexpr):
    tl.extra.cuda.gdc_wait()
    offsets = tl.program_id(0) * count + tl.arange(0, count)
    tl.store(pointer + offsets, tl.load(pointer + offsets) * 2)


@pytest.mark.parametrize("before", ["nothing", "copy", "fill", "kernel", "join", "copy and kernel"])
def test_a_linked_launch_can_follow_anything(before: str, space: CudaSpace, x: Tensor) -> None:
    """As conv1d does: only a kernel before it can give a programmatic edge, and none must fail."""
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("programmatic dependent launch needs sm_90")
    source, other = torch.full_like(x, 3.0), torch.full_like(x, 3.0)
    beside = torch.cuda.Stream()

    def step() -> None:
        if before == "copy":
            x.copy_(source)
        elif before == "fill":
            x.zero_()
        elif before != "nothing":
            here = torch.cuda.current_stream()
            if before != "kernel":
                beside.wait_stream(here)
            _add_one[(2,)](x, 4, num_warps=4)
            if before != "kernel":
                with torch.cuda.stream(beside):
                    if before == "join":
                        _add_one[(2,)](source, 4, num_warps=4)
                    else:
                        source.copy_(other)
                here.wait_stream(beside)
        _wait_and_double[(2,)](x, 4, num_warps=4, launch_pdl=True)

    space.warm_up(step)
    x.fill_(1.0)
    torch.cuda.synchronize()
    with space.graph("toy") as graph:
        graph.capture(step)
        kinds = {node: driver.node_type(node) for node in driver.nodes(graph.raw_graph)}
        edges = driver.edges(graph.raw_graph)
        print(before, [(kinds[e.source], kinds[e.target], e.type, e.from_port) for e in edges])
        assert not [e for e in edges if e.programmatic and kinds[e.source] != "kernel"]
        if before == "kernel":
            assert [edge.programmatic for edge in edges] == [True]
        graph.instantiate()
        graph.launch()
        torch.cuda.synchronize()
    expected = {"nothing": 2.0, "copy": 6.0, "fill": 0.0}.get(before, 4.0)
    assert x.tolist() == [expected] * 8


# --- buffers and buckets -------------------------------------------------------------------------


@dataclass
class Buffers:
    ids: Tensor
    out: Tensor


@pytest.mark.parametrize("pin_memory", [False, True])
def test_an_input_may_be_overwritten_while_its_copy_waits(pin_memory: bool) -> None:
    buffers = Buffers(torch.zeros(4, dtype=torch.int64, device="cuda"), torch.zeros(4).cuda())

    def fill_often() -> None:
        source = torch.arange(4, pin_memory=pin_memory)
        torch.cuda._sleep(200_000_000)
        for _ in range(8):
            fill(buffers, 4, {"ids": source})
            source.add_(1)

    fill_often()  # the first pinned allocations may wait for the device
    torch.cuda.synchronize()
    fill_often()
    assert not torch.cuda.current_stream().query()
    torch.cuda.synchronize()
    assert buffers.ids.tolist() == [7, 8, 9, 10]


def toy_model(weight: Tensor) -> Callable[[int, int], Recipe[Buffers]]:
    def build(bucket: int, tokens: int) -> Recipe[Buffers]:
        buffers = Buffers(
            torch.zeros(bucket, dtype=torch.int64, device="cuda"),
            torch.zeros(bucket, 64, device="cuda"),
        )

        def run() -> None:
            hidden = weight[buffers.ids]
            for _ in range(tokens):
                hidden = torch.tanh(hidden @ weight)
            buffers.out.copy_(hidden)

        return Recipe(run, buffers)

    return build


def test_graphs_of_all_buckets_compute_what_eager_does(space: CudaSpace) -> None:
    weight = torch.randn(64, 64, device="cuda")
    lines: list[CaptureProgress] = []
    with BucketGraphs[Buffers](space) as graphs:
        graphs.capture((1, 4, 32), (1, 3), toy_model(weight), lines.append)
        assert [(line.bucket, line.tokens) for line in lines][:3] == [(32, 3), (32, 1), (4, 3)]
        assert all(line.free_bytes for line in lines)
        for captured in [*graphs, *reversed(list(graphs))]:  # in and against the order of capture
            ids = torch.randint(0, 64, (captured.bucket,))
            fill(captured.value, captured.bucket, {"ids": ids})
            captured.graph.launch()
            hidden = weight[ids.cuda()]
            for _ in range(captured.tokens):
                hidden = torch.tanh(hidden @ weight)
            torch.testing.assert_close(captured.value.out, hidden)


def test_a_failing_bucket_closes_the_others_and_returns_their_memory(space: CudaSpace) -> None:
    weight = torch.randn(64, 64, device="cuda")
    good = toy_model(weight)

    def build(bucket: int, tokens: int) -> Recipe[Buffers]:
        recipe = good(bucket, tokens)

        def run() -> None:
            recipe.run()
            torch.ones(BIG, device="cuda").add_(1)
            if bucket == 1:
                torch.cuda.synchronize()

        return Recipe(run, recipe.value, warm_up=recipe.run)

    with BucketGraphs[Buffers](space) as first:
        first.capture((4,), (3,), good)  # from here on libraries hold their workspaces
    graphs = BucketGraphs[Buffers](space)
    before = reserved_bytes()
    with pytest.raises(CaptureError, match=r"graph of bucket 1, T 3=.*operation not permitted"):
        graphs.capture((1, 2, 4), (3,), build)
    assert len(graphs) == 0
    assert reserved_bytes() <= before

    graphs.capture((2,), (1,), good)
    with pytest.raises(CaptureError, match=r"graph of bucket 1, T 3=.*operation not permitted"):
        graphs.capture((1, 2, 4), (3,), build)
    assert [(graph.bucket, graph.tokens) for graph in graphs] == [(2, 1)]
    graphs.capture((1, 2, 4), (3,), good)
    for captured in graphs:
        captured.graph.launch()
    torch.cuda.synchronize()
    graphs.close()
    assert reserved_bytes() <= before
