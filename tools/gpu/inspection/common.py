# SPDX-License-Identifier: Apache-2.0
"""What the sections share: where reports go, runtimes to inspect, what is counted of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphrt.capture.inspect.report import PointsTo, Report
from graphrt.capture.inspect.schema import dumps, loads, save
from graphrt.config import ChainShape, RuntimeConfig
from graphrt.runtime import DecodeRuntime
from graphrt.step import ChainStep
from tools.gpu.workload import fill_inputs, random_request, random_weights

SHAPE = ChainShape(heads=16, head_dim=64, state_dim=128)


@dataclass(slots=True)
class Context:
    """Where reports are saved, under their names, and the device."""

    folder: Path
    device: torch.device
    saved: list[str] = field(default_factory=list)

    def save(self, report: Report, name: str) -> None:
        """Keep a report as NAME.json, after reading its own text back."""
        assert loads(dumps(report)) == report, f"{name} does not survive its JSON"
        save(report, self.folder / f"{name}.json")
        self.saved.append(name)

    def note(self, text: str, name: str) -> None:
        """Keep a text beside the reports."""
        (self.folder / name).write_text(text, encoding="utf-8")


def chain_config(
    device: torch.device, layers: int, buckets: Sequence[int] = (1, 4), slots: int = 8
) -> RuntimeConfig:
    """Return T 6, W 16, bf16 activations, fp16 state rounded stochastically."""
    return RuntimeConfig(
        shape=SHAPE,
        layers=layers,
        slots=slots,
        tokens=6,
        window=16,
        buckets=tuple(buckets),
        state_dtype=torch.float16,
        rounding="stochastic",
        device=device,
    )


def chain_runtime(config: RuntimeConfig, *, check: bool = True) -> tuple[DecodeRuntime, ChainStep]:
    """Return a runtime that captured the chain alone, over random weights."""
    generator = torch.Generator(config.device).manual_seed(0)
    step = ChainStep(config, random_weights(config, generator))
    runtime = DecodeRuntime(config)
    runtime.capture(step, check=check)
    return runtime, step


def lived_in(runtime: DecodeRuntime, launches: int = 4) -> None:
    """Admit a request to every slot and launch each a few times, so that all slots hold history."""
    config = runtime.config
    generator = torch.Generator(config.device).manual_seed(1)
    slots = [runtime.admit(random_request(config, generator)) for _ in range(config.slots)]
    widest = config.buckets[-1]
    for bucket in config.buckets:
        fill_inputs(runtime.buffers(bucket), generator)
    for first in range(0, len(slots), widest):
        rows = slots[first : first + widest]
        for _ in range(launches):
            runtime.launch(rows)
            runtime.accept({slot: 3 for slot in rows})
    torch.cuda.synchronize()


def figures(report: Report) -> dict[str, Any]:
    """Return what a summary says of a report."""
    kinds = Counter(node.kind for _, node in report.walk())
    targets = Counter(
        pointer.to.value
        for _, node in report.walk()
        if node.kernel
        for argument in node.kernel.arguments
        for pointer in argument.pointers
    )
    edges = [edge for body in report.bodies for edge in body.edges]
    return {
        "nodes": sum(kinds.values()),
        "kinds": dict(kinds),
        "bodies": len(report.bodies),
        "functions": [
            {
                "name": f.name[:120],
                "parameters": len(f.parameters),
                "named": [p.name for p in f.parameters if p.name],
                "registers": f.registers,
                "local_bytes": f.local_bytes,
                "options": dict(f.options),
            }
            for f in report.functions[:20]
        ],
        "edges": len(edges),
        "programmatic": sum(edge.programmatic for edge in edges),
        "ports": sorted({(e.from_port, e.to_port, e.type) for e in edges}),
        "pointers": dict(targets),
        "findings": [str(finding)[:400] for finding in report.findings[:20]],
        "seconds": report.seconds,
    }


def undeclared(report: Report) -> list[str]:
    """Return what points neither into a declared buffer nor into the pool nor is null."""
    fine = (PointsTo.BUFFER, PointsTo.POOL, PointsTo.NULL)
    return [
        f"node {node.id}, argument {index}: {pointer}"
        for _, node in report.walk()
        if node.kernel
        for index, argument in enumerate(node.kernel.arguments)
        for pointer in argument.pointers
        if pointer.to not in fine
    ]
