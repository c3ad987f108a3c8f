# SPDX-License-Identifier: Apache-2.0
"""What CudaGraph leaves behind after each way a capture can go, without a GPU."""

import gc
import logging
from collections.abc import Callable

import pytest
import torch

from graphrt.capture import cuda_graph
from graphrt.capture.cuda_graph import CudaGraph, CudaSpace
from graphrt.capture.graph import GraphState
from graphrt.errors import CaptureError, DriverError
from tests.capture.fake_cuda import FakeCuda, install


@pytest.fixture(params=[False, True], ids=["torch 2.11", "torch 2.12"])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return install(monkeypatch, forgets_before_raising=request.param)


@pytest.fixture
def space(cuda: FakeCuda) -> CudaSpace:
    return CudaSpace(torch.device("cuda", 0))


def good_capture(space: CudaSpace, cuda: FakeCuda) -> CudaGraph:
    graph = space.graph("toy")
    graph.capture(cuda.enqueue)
    graph.instantiate()
    return graph


def test_a_life(cuda: FakeCuda, space: CudaSpace) -> None:
    graph = space.graph("toy")
    graph.begin()
    assert cuda.capture == "active" and cuda.current == 0
    graph.run(cuda.enqueue)
    graph.end()
    assert cuda.usable()
    assert graph.raw_graph == graph.torch_graph.raw_cuda_graph()
    graph.instantiate()
    graph.upload()
    graph.launch()
    graph.launch()
    graph.close()
    graph.close()
    assert cuda.calls == [
        "work on 1",
        "instantiate",
        "upload on 0",
        "launch",
        "launch",
        "synchronize",
    ]
    assert not cuda.live_executables and not cuda.leaked_pools


def break_by_raising(cuda: FakeCuda) -> None:
    cuda.enqueue()
    raise ValueError("broken step")


def break_by_synchronising(cuda: FakeCuda) -> None:
    cuda.enqueue()
    torch.cuda.synchronize()


def break_in_silence(cuda: FakeCuda) -> None:
    cuda.enqueue()
    cuda.capture = "invalid"


def break_by_raising_between_fork_and_join(cuda: FakeCuda) -> None:
    cuda.capture = "unjoined"
    raise ValueError("broken step")


BREAKS = [
    (break_by_raising, "toy=ValueError: broken step"),
    (break_by_synchronising, "toy=RuntimeError: CUDA error: operation not permitted"),
    (break_in_silence, "toy=invalidated capture: nothing may synchronise"),
    (break_by_raising_between_fork_and_join, "toy=ValueError: broken step"),
]


@pytest.mark.parametrize("shared", [False, True], ids=["alone in the pool", "beside another"])
@pytest.mark.parametrize(("break_it", "message"), BREAKS)
def test_after_a_failed_capture_a_good_one_works_in_the_same_space(
    cuda: FakeCuda,
    space: CudaSpace,
    break_it: Callable[[FakeCuda], None],
    message: str,
    shared: bool,
) -> None:
    other = good_capture(space, cuda) if shared else None
    uses_before = dict(cuda.pool_uses)
    graph = space.graph("toy")
    for _ in range(3):
        with pytest.raises(CaptureError, match=message):
            graph.capture(lambda: break_it(cuda))
        assert graph.state is GraphState.EMPTY
        assert cuda.usable() and gc.isenabled()
        assert cuda.leaked_pools == len(uses_before)
    graph.capture(cuda.enqueue)
    graph.instantiate()
    graph.launch()
    if other is not None:
        assert cuda.pool_uses == {pool: uses + 1 for pool, uses in uses_before.items()}
        other.launch()
        other.close()
    graph.close()
    assert not cuda.leaked_pools and not cuda.live_executables


def test_a_capture_broken_outside_of_run_is_found_at_the_end(
    cuda: FakeCuda, space: CudaSpace
) -> None:
    graph = space.graph("toy")
    graph.begin()
    graph.run(cuda.enqueue)
    with pytest.raises(RuntimeError):
        torch.cuda.synchronize()
    with pytest.raises(CaptureError, match="toy=invalidated capture"):
        graph.end()
    assert cuda.usable() and not cuda.leaked_pools
    good_capture(space, cuda)


def test_work_that_is_never_joined_fails_at_the_end(
    cuda: FakeCuda, space: CudaSpace, caplog: pytest.LogCaptureFixture
) -> None:
    graph = space.graph("toy")
    graph.begin()
    graph.run(cuda.enqueue)
    cuda.capture = "unjoined"
    with pytest.raises(CaptureError, match="toy=RuntimeError: CUDA error: operation failed"):
        graph.end()
    assert cuda.capture is None and not cuda.routed and gc.isenabled()
    if cuda.forgets_before_raising:
        # PyTorch gave up the capture before raising and cannot be made to release the pool.
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert cuda.leaked_pools == 1 and len(cuda_graph._unfinished) == 1
    else:
        assert not caplog.records and not cuda.leaked_pools
    good_capture(space, cuda).launch()


def test_a_capture_that_cannot_begin_leaves_the_space_usable(
    cuda: FakeCuda, space: CudaSpace
) -> None:
    other = good_capture(space, cuda)
    cuda.begin_fails = True
    graph = space.graph("toy")
    with pytest.raises(CaptureError, match="toy=RuntimeError: CUDA error: operation would make"):
        graph.begin()
    assert graph.state is GraphState.EMPTY and gc.isenabled()
    assert len(cuda_graph._unfinished) == 1  # the allocator still points at it
    cuda.begin_fails = False
    good_capture(space, cuda).launch()
    other.launch()
    other.close()


def test_close_during_a_capture_ends_it_first(cuda: FakeCuda, space: CudaSpace) -> None:
    graph = space.graph("toy")
    graph.begin()
    graph.run(cuda.enqueue)
    graph.close()
    assert graph.state is GraphState.CLOSED
    assert cuda.usable() and not cuda.leaked_pools and gc.isenabled()
    assert "synchronize" not in cuda.calls
    good_capture(space, cuda).launch()


def test_a_graph_forgotten_during_its_capture_ends_it(cuda: FakeCuda, space: CudaSpace) -> None:
    graph = space.graph("toy")
    graph.begin()
    del graph
    gc.collect()
    assert cuda.usable() and not cuda.leaked_pools and gc.isenabled()


def test_closing_another_graph_during_a_capture_does_not_wait(
    cuda: FakeCuda, space: CudaSpace
) -> None:
    other = good_capture(space, cuda)
    graph = space.graph("toy")
    graph.begin()
    graph.run(cuda.enqueue)
    other.close()
    graph.end()
    graph.instantiate()
    graph.launch()
    assert "synchronize" not in cuda.calls


def test_one_capture_at_a_time_in_a_space(cuda: FakeCuda, space: CudaSpace) -> None:
    first, second = space.graph("first"), space.graph("second")
    first.begin()
    first.run(cuda.enqueue)
    with pytest.raises(CaptureError, match=r"cuda:0=capturing: .+; end the other capture first"):
        second.begin()
    assert second.state is GraphState.EMPTY
    first.end()
    second.capture(cuda.enqueue)
    assert cuda.usable()


def test_graphs_share_a_pool_for_as_long_as_one_of_them_lives(
    cuda: FakeCuda, space: CudaSpace
) -> None:
    graphs = [good_capture(space, cuda) for _ in range(3)]
    assert list(cuda.pool_uses.values()) == [3]
    for graph in graphs:
        graph.close()
    # The id of the first pool is dead, PyTorch would refuse it.
    last = good_capture(space, cuda)
    assert list(cuda.pool_uses.values()) == [0, 1]
    last.close()


def test_the_collector_is_paused_during_the_capture_alone(cuda: FakeCuda, space: CudaSpace) -> None:
    paused: list[bool] = []
    graph = space.graph("toy")
    graph.capture(lambda: (cuda.enqueue(), paused.append(not gc.isenabled())))
    assert paused == [True] and gc.isenabled()


def test_a_collector_that_was_off_stays_off(cuda: FakeCuda, space: CudaSpace) -> None:
    gc.disable()
    try:
        good_capture(space, cuda)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_collector_waits_for_the_last_of_several_captures(cuda: FakeCuda) -> None:
    cuda_graph._pause_collector()
    cuda_graph._pause_collector()
    cuda_graph._resume_collector()
    assert not gc.isenabled()
    cuda_graph._resume_collector()
    assert gc.isenabled()


def test_a_failed_instantiation_may_be_tried_again(cuda: FakeCuda, space: CudaSpace) -> None:
    graph = space.graph("toy")
    graph.capture(cuda.enqueue)
    cuda.instantiate_fails = True
    with pytest.raises(DriverError, match="cudaErrorMemoryAllocation"):
        graph.instantiate()
    assert graph.state is GraphState.CAPTURED
    cuda.instantiate_fails = False
    graph.instantiate()
    graph.launch()
    graph.close()
    assert not cuda.leaked_pools


def test_every_resource_is_freed_even_if_the_device_has_failed(
    cuda: FakeCuda, space: CudaSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(device: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    graph = good_capture(space, cuda)
    monkeypatch.setattr(torch.cuda, "synchronize", fault)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        graph.close()
    assert graph.state is GraphState.CLOSED
    assert not cuda.live_executables and not cuda.leaked_pools
    graph.close()


def test_an_uncaptured_graph_has_no_handle_to_read(cuda: FakeCuda, space: CudaSpace) -> None:
    graph = space.graph("toy")
    with pytest.raises(CaptureError, match="toy=empty"):
        graph.raw_graph  # noqa: B018
    graph.begin()
    with pytest.raises(CaptureError, match="toy=capturing"):
        graph.raw_graph  # noqa: B018
    graph.close()
    with pytest.raises(CaptureError, match="toy=closed"):
        graph.raw_graph  # noqa: B018


def test_warming_up_runs_on_the_capture_stream_outside_a_capture(
    cuda: FakeCuda, space: CudaSpace
) -> None:
    space.warm_up(cuda.enqueue)
    assert cuda.calls == ["work on 1"]
    assert cuda.usable()
