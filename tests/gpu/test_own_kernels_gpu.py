# SPDX-License-Identifier: Apache-2.0
"""A step with kernels of its own between layers of a single kernel: their links, and their bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from graphrt import BoundChain, ChainShape, ChainStep, DecodeRuntime
from graphrt.kernels.tensors import LayerInputs
from tests.helpers.gpu_runtimes import DEVICE, config, generator
from tools.gpu.compare import check_same_bits
from tools.gpu.links import read_graph
from tools.gpu.workload import captured, random_weights

pytestmark = pytest.mark.gpu

SHAPE = ChainShape(heads=16, head_dim=64, state_dim=128)  # one kernel a layer on sm_90
LAYERS, TOKENS = 3, 6


class Between(ChainStep):
    """The chain, with a kernel that signals nothing before every layer."""

    def __init__(self, *given: Any, says_so: bool) -> None:
        super().__init__(*given)
        self.only_chain = not says_so

    def __call__(self, chain: BoundChain, buffers: Any) -> None:
        for layer, weights in enumerate(self._weights):
            xbc = buffers.xbc[:, layer]
            xbc.mul_(1.0)
            chain.layer(
                layer, LayerInputs(xbc, buffers.dt[:, layer], None), weights, buffers.out[:, layer]
            )


@pytest.mark.parametrize("says_so", [True, False])
def test_single_layers_behind_other_kernels(says_so: bool) -> None:
    chosen = replace(
        config(layers=LAYERS, tokens=TOKENS, window=16, launch_tokens=(TOKENS,), buckets=(1,)),
        shape=SHAPE,
        state_dtype=torch.float16,
        rounding="nearest",
    )
    weights = random_weights(chosen, generator())
    outs = []
    for step in (ChainStep(chosen, weights), Between(chosen, weights, says_so=says_so)):
        with DecodeRuntime(chosen) as runtime:
            # What is said decides the links; that it is false here the check would refuse.
            runtime.capture(step, check=says_so)
            slot = runtime.admit()
            drawn = torch.Generator(DEVICE).manual_seed(3)
            for launch in range(6):
                buffers = runtime.buffers(1)
                buffers.xbc.normal_(generator=drawn)
                buffers.dt.normal_(generator=drawn)
                runtime.launch([slot])
                outs.append(buffers.out.clone())
                runtime.accept([launch % (TOKENS + 1)])
            (graph,) = captured(runtime)
            names, edges = read_graph(graph.graph)
            linked = [edge.programmatic for edge in edges if "_single" in names[edge.target]]
            kernels = [name for name in names.values() if "_single" in name]
    if torch.cuda.get_device_capability(DEVICE) == (9, 0):
        others = "_single_kernel" if says_so else "_single_next_kernel"
        assert kernels == ["_single_kernel", others, others]
        assert linked == [not says_so] * LAYERS
    for launch in range(6):
        check_same_bits(outs[launch + 6], outs[launch], f"y of launch {launch}")
