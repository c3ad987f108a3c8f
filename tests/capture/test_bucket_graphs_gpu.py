# SPDX-License-Identifier: Apache-2.0
"""Graphs of all buckets on a GPU, and the buffers that are filled before they are launched."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from graphrt.capture.bucket_graphs import BucketGraphs, CaptureProgress, Recipe
from graphrt.capture.buffers import fill
from graphrt.capture.cuda_graph import CudaSpace
from graphrt.errors import CaptureError
from tests.helpers.gpu_memory import BIG, reserved_bytes

pytestmark = pytest.mark.gpu


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
