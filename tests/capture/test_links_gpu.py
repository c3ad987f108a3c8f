# SPDX-License-Identifier: Apache-2.0
"""What a GPU capture makes of launches, linked ones too: nodes, kernels and edges read back."""

import pytest
import torch
from torch import Tensor

from graphrt.capture import driver
from graphrt.capture.cuda_graph import CudaSpace
from graphrt.kernels.pdl import pdl_supported

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

pytestmark = pytest.mark.gpu


def require_links(x: Tensor) -> None:
    if not pdl_supported(x.device):
        pytest.skip("programmatic dependent launch needs sm_90")


@triton.jit
def _add_one(pointer, count: tl.constexpr):
    offsets = tl.program_id(0) * count + tl.arange(0, count)
    tl.store(pointer + offsets, tl.load(pointer + offsets) + 1)


@pytest.mark.parametrize("pdl", [False, True])
def test_nodes_kernels_and_edges_are_read_back(pdl: bool, space: CudaSpace, x: Tensor) -> None:
    if pdl:
        require_links(x)

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
    require_links(x)
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
