# SPDX-License-Identifier: Apache-2.0
"""Sections that read graphs: the runtime's, PyTorch's, copies, a child graph, 1,500 nodes."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from graphrt.capture import driver
from graphrt.capture.inspect.manifest import Manifest, Role
from graphrt.capture.inspect.read import inspect_graph
from graphrt.models.bundled import bundled_model
from graphrt.models.generate import TextGenerator
from tools.gpu.inspection.common import (
    Context,
    chain_config,
    chain_runtime,
    figures,
    undeclared,
)


def chain(context: Context) -> dict[str, Any]:
    """The chain alone, one layer: three kernels and advance, everything declared and named."""
    found: dict[str, Any] = {"failures": []}
    runtime, _ = chain_runtime(chain_config(context.device, 1))
    with runtime:
        for bucket in (1, 4):
            report = runtime.inspect(bucket)
            context.save(report, f"chain-bucket-{bucket}")
            found[f"bucket {bucket}"] = figures(report)
            found["failures"] += _runtime_failures(report)
            found["kernels"] = _arguments(report)
    return found


def layers(context: Context) -> dict[str, Any]:
    """48 layers: the same, and links in every layer."""
    runtime, _ = chain_runtime(chain_config(context.device, 48, buckets=(4,)))
    with runtime:
        report = runtime.inspect(4)
        again = runtime.inspect(4)
    context.save(report, "chain-48-layers")
    failures = _runtime_failures(report)
    if report.bodies != again.bodies:
        failures.append("two inspections of one graph differ")
    return {"failures": failures, **figures(report)}


def model(context: Context) -> dict[str, Any]:
    """The whole step of the model in the package, with its matrix products."""
    with TextGenerator.from_directory(bundled_model(), device=context.device, slots=4) as made:
        report = made.runtime.inspect(4)
    context.save(report, "model-step")
    failures = [str(finding) for finding in report.findings if finding.severity != "note"]
    return {"failures": failures, "undeclared": undeclared(report)[:10], **figures(report)}


def torch_mlp(context: Context) -> dict[str, Any]:
    """A torch.cuda.CUDAGraph of a plain MLP: cuBLAS kernels, whose arguments are structures."""
    mlp, x, y, graph = captured_mlp(context.device)
    manifest = mlp_manifest(mlp, x, y)
    report = inspect_graph(graph, manifest, name="MLP")
    context.save(report, "torch-mlp")
    raw = inspect_graph(int(graph.raw_cuda_graph()), manifest, name="MLP by raw handle")
    failures = [str(finding) for finding in report.errors]
    used = {
        p.buffer
        for _, n in report.walk()
        if n.kernel
        for a in n.kernel.arguments
        for p in a.pointers
    }
    missing = {"0.weight", "2.weight", "x"} - used
    if missing:
        failures.append(f"no argument was resolved to {sorted(missing)}")
    if len(raw.bodies[0].nodes) != len(report.bodies[0].nodes):
        failures.append("the raw handle shows other nodes than the object")
    return {"failures": failures, "resolved": sorted(used), **figures(report)}


def captured_mlp(
    device: torch.device,
) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor, torch.cuda.CUDAGraph]:
    """Return a plain MLP, its static input and output, and its captured graph."""
    mlp = nn.Sequential(nn.Linear(512, 1024), nn.GELU(), nn.Linear(1024, 512))
    mlp = mlp.to(device, torch.bfloat16).eval()
    x = torch.randn(16, 512, device=device, dtype=torch.bfloat16)
    y = torch.empty_like(x)
    stream = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(2):
            y.copy_(mlp(x))
    stream.synchronize()
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.no_grad(), torch.cuda.graph(graph, stream=stream):
        y.copy_(mlp(x))
    return mlp, x, y, graph


def mlp_manifest(mlp: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Manifest:
    """Return what the MLP's graph may point at."""
    manifest = Manifest()
    manifest.declare_module(mlp)
    manifest.declare("x", x, Role.INPUT)
    manifest.declare("y", y, Role.OUTPUT)
    return manifest


def copies(context: Context) -> dict[str, Any]:
    """Memcpy and memset nodes, a fork and a join, and a child graph around them."""
    device = context.device
    a = torch.arange(4096, device=device, dtype=torch.float32)
    b, c = torch.empty_like(a), torch.empty_like(a)
    pinned = torch.zeros(4096, pin_memory=True)
    side = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        main = torch.cuda.current_stream()
        b.copy_(a)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            c.copy_(pinned, non_blocking=True)
        c.record_stream(side)
        b.zero_()
        main.wait_stream(side)
        b.add_(c)
        pinned.copy_(b, non_blocking=True)
    manifest = Manifest()
    manifest.declare_all({"a": a, "b": b, "c": c, "pinned": pinned})
    report = inspect_graph(graph, manifest, name="copies")
    context.save(report, "copies")
    outer = driver.create_graph()
    failures = [str(finding) for finding in report.errors]
    try:
        driver.add_child_graph(outer, int(graph.raw_cuda_graph()))
        nested = inspect_graph(outer, manifest, name="child")
        context.save(nested, "child-graph")
        if len(nested.bodies) != 2 or len(nested.bodies[1].nodes) != len(report.bodies[0].nodes):
            failures.append("the child graph's nodes were not entered")
    finally:
        driver.destroy_graph(outer)
    kinds = {node.kind for _, node in report.walk()}
    if not {"kernel", "memcpy"} <= kinds:
        failures.append(f"kinds of nodes are {sorted(kinds)}")
    sides = [
        (n.copy.source.memory, str(n.copy.source.pointer), n.copy.target.memory,
         str(n.copy.target.pointer), n.copy.width_bytes, n.copy.height, n.copy.depth)
        for _, n in report.walk() if n.copy
    ]  # fmt: skip
    return {"failures": failures, "copies": sides, **figures(report)}


def many(context: Context) -> dict[str, Any]:
    """1,500 nodes in less than two seconds: 500 layers of the chain."""
    config = chain_config(context.device, 500, buckets=(1,), slots=2)
    runtime, _ = chain_runtime(config)
    with runtime:
        start = time.perf_counter()
        report = runtime.inspect(1)
        seconds = time.perf_counter() - start
        captured = runtime.captured[0]
        check = {"seconds": captured.seconds, "check_seconds": captured.check_seconds}
    context.save(report, "chain-500-layers")
    failures = _runtime_failures(report)
    if seconds >= 2:
        failures.append(f"{seconds:.2f} s, must be under 2 s")
    return {"failures": failures, "inspect_seconds": seconds, "capture": check, **figures(report)}


def _runtime_failures(report: Any) -> list[str]:
    failures = [str(finding) for finding in report.findings if finding.severity != "note"]
    failures += [f"not declared: {text}" for text in undeclared(report)[:5]]
    unnamed = [f.name for f in report.functions if not all(p.name for p in f.parameters)]
    if unnamed:
        failures.append(f"arguments without names in {unnamed}")
    return failures


def _arguments(report: Any) -> list[str]:
    """Return the arguments of every node as text: for a person to look at."""
    lines = []
    for node in report.bodies[0].nodes:
        function = report.functions[node.kernel.function]
        lines.append(f"{function.name} {node.kernel.grid} {node.kernel.block} {function.source}")
        for argument, parameter in zip(node.kernel.arguments, function.parameters, strict=False):
            shown = ", ".join(map(str, argument.pointers)) or str(argument.number)
            lines.append(f"    {parameter.name}: {parameter.type} = {shown}")
    return lines
