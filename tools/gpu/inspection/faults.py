# SPDX-License-Identifier: Apache-2.0
"""Sections with planted faults: stale pointers, broken contracts, bad handles."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from graphrt.capture.inspect import handles
from graphrt.capture.inspect.read import inspect_graph
from graphrt.errors import CaptureError, ContractError
from graphrt.runtime import DecodeRuntime
from graphrt.step import ChainStep
from tools.gpu.inspection.common import Context, chain_config
from tools.gpu.inspection.graphs import captured_mlp, mlp_manifest
from tools.gpu.workload import random_weights


def stale(context: Context) -> dict[str, Any]:
    """Weights replaced, freed, and re-allocated after the capture: buffer, node, argument named."""
    found: dict[str, Any] = {"failures": []}

    def replaced(mlp: nn.Sequential) -> object:
        old = mlp[2].weight
        mlp[2].weight = nn.Parameter(torch.zeros_like(old), requires_grad=False)
        return old

    def freed(mlp: nn.Sequential) -> object:
        mlp[2].weight = None
        return None

    def swapped(mlp: nn.Sequential) -> object:
        mlp[2].weight.data = torch.zeros_like(mlp[2].weight)
        return torch.zeros_like(mlp[2].weight)  # takes the old memory

    for change in (replaced, freed, swapped):
        mlp, x, y, graph = captured_mlp(context.device)
        manifest = mlp_manifest(mlp, x, y)
        held = change(mlp)
        gc.collect()
        report = inspect_graph(graph, manifest, name=f"MLP, weight {change.__name__}")
        bare = inspect_graph(graph, name="without a manifest")
        context.save(report, f"stale-{change.__name__}")
        named = [f for f in report.errors if f.buffer == "2.weight" and f.node >= 0 and f.argument]
        if not named:
            found["failures"].append(f"{change.__name__}: no finding names buffer, node, argument")
        found[change.__name__] = {
            "findings": [str(f) for f in report.findings],
            "without_a_manifest": [str(f) for f in bare.findings],
        }
        del held
    return found


def contract(context: Context) -> dict[str, Any]:
    """Steps that break what the runtime states must be refused, and leave the runtime as it was."""
    config = chain_config(context.device, 2, buckets=(4,))
    generator = torch.Generator(config.device).manual_seed(0)
    weights = random_weights(config, generator)
    hidden = torch.zeros(4, device=config.device)

    class Copying(ChainStep):
        def __call__(self, chain: Any, buffers: Any) -> None:
            for layer, each in enumerate(self._weights):
                hidden.add_(1)
                self._layer(chain, buffers, layer, each)

        def _layer(self, chain: Any, buffers: Any, layer: int, each: Any) -> None:
            from graphrt.kernels.tensors import LayerInputs

            inputs = LayerInputs(xbc=buffers.xbc[:, layer], dt=buffers.dt[:, layer])
            chain.layer(layer, inputs, each, buffers.out[:, layer])

    class Short(Copying):
        def __call__(self, chain: Any, buffers: Any) -> None:
            self._layer(chain, buffers, 0, self._weights[0])

    class Undeclared(Copying):
        def declare_weights(self, manifest: Any) -> None:
            pass

        def __call__(self, chain: Any, buffers: Any) -> None:
            ChainStep.__call__(self, chain, buffers)

    found: dict[str, Any] = {"failures": []}
    with DecodeRuntime(config) as runtime:
        runtime.capture(ChainStep(config, weights))
        for step in (Copying, Short, Undeclared):
            try:
                runtime.capture(step(config, weights))
                found["failures"].append(f"{step.__name__} was captured")
            except ContractError as error:
                found[step.__name__] = str(error)
        runtime.launch([runtime.admit()])
        torch.cuda.synchronize()
        launched = runtime.captured[0].graph
    try:
        inspect_graph(launched)
        found["failures"].append("a closed graph was inspected")
    except CaptureError as error:
        found["closed"] = str(error)
    return found


# Each runs in a process of its own: a crash must not take the report with it.
_PRELUDE = """
import sys, torch
from graphrt.capture import driver
from graphrt.capture.inspect.read import inspect_graph
from graphrt.errors import GraphrtError
x = torch.zeros(8, device="cuda")
graph = torch.cuda.CUDAGraph(keep_graph=True)
with torch.cuda.graph(graph):
    x.add_(1)
raw = int(graph.raw_cuda_graph())
def attempt(what):
    try:
        report = inspect_graph(what)
        print("READ", len(report.bodies[0].nodes))
    except GraphrtError as error:
        print(type(error).__name__, error)
"""
_HANDLES = {
    "zero": "attempt(0)",
    "small number": "attempt(0xdead)",
    "unmapped": "attempt(0x7f0000000000)",
    "kernel space": "attempt(1 << 63)",
    "negative": "attempt(-5)",
    "text": "attempt('graph')",
    "python object": "attempt(id(x))",
    "device memory": "attempt(x.data_ptr())",
    "executable graph": "exec_ = driver.instantiate(raw); attempt(exec_)",
    "stream": "attempt(torch.cuda.Stream().cuda_stream)",
    "node": "attempt(driver.nodes(raw)[0])",
    "inside a graph": "attempt(raw + 8)",
    "destroyed": "g = driver.create_graph(); driver.destroy_graph(g); attempt(g)",
    "reset": "graph.reset(); attempt(graph)",
    "raw after reset": "graph.reset(); attempt(raw)",
    "without keep_graph": """
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    x.add_(1)
attempt(graph)""",
    "not captured": "attempt(torch.cuda.CUDAGraph(keep_graph=True))",
    "forked process": """
import os
if os.fork() == 0:
    attempt(graph); sys.stdout.flush(); os._exit(0)
os.wait()""",
    "good": "attempt(raw)",
}
_MUST_READ = ("good",)
# Freed memory may still look like a graph: no check can tell. It must not crash all the same.
_MAY_READ = ("destroyed", "raw after reset")


def bad_handles(context: Context) -> dict[str, Any]:
    """Numbers that are no graph, closed graphs, graphs of another process: a sentence each."""
    found: dict[str, Any] = {"failures": [], "signature": []}
    running = {
        name: subprocess.Popen(
            [sys.executable, "-c", _PRELUDE + code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, code in _HANDLES.items()
    }
    for name, process in running.items():
        try:
            out, error = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            out, error = process.communicate()
        said = out.strip().splitlines()[-1] if out.strip() else ""
        found[name] = said or f"exit {process.returncode}: {error.strip()[-300:]}"
        if process.returncode:
            found["failures"].append(f"{name}: exit code {process.returncode}")
        elif said.startswith("READ") != (name in _MUST_READ) and name not in _MAY_READ:
            found["failures"].append(f"{name}: {said}")
    found |= _heads()
    return found


def _heads() -> dict[str, Any]:
    """Return what lies at the head of graphs and of other things, which the check rests on."""
    from graphrt.capture import driver

    graph = driver.create_graph()
    executable = driver.instantiate(graph)
    things: dict[str, Callable[[], int]] = {
        "graph": lambda: graph,
        "executable": lambda: executable,
    }
    try:
        heads = {
            name: [hex(word) for word in handles.read_words(make()) or []]
            for name, make in things.items()
        }
    finally:
        driver.destroy(executable)
        driver.destroy_graph(graph)
    return {
        "heads": heads,
        "signature": [(place, hex(word)) for place, word in handles.signature()],
        "libcuda": [(hex(area.start), hex(area.stop)) for area in handles._libcuda()],
    }
