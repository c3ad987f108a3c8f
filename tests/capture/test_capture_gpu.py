# SPDX-License-Identifier: Apache-2.0
"""Captures and launches on a GPU: above all that nothing that fails leaves anything behind."""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from graphrt.capture import driver
from graphrt.capture.cuda_graph import CudaGraph, CudaSpace
from graphrt.capture.graph import GraphState
from graphrt.errors import CaptureError
from tests.helpers.gpu_memory import BIG, reserved_bytes

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

pytestmark = pytest.mark.gpu


def good_capture(space: CudaSpace, x: Tensor) -> CudaGraph:
    """Return a ready graph that adds 1 to ``x`` by way of a temporary."""
    graph = space.graph("toy")
    graph.capture(lambda: x.add_(torch.ones_like(x)))
    graph.instantiate()
    return graph


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
