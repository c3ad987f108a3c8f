# SPDX-License-Identifier: Apache-2.0
"""A plain PyTorch model in a CUDA graph, and the weight that was replaced after the capture.

    python examples/inspect_torch_graph.py

The graph keeps the address of the old weight: it computes with it, or with whatever lies there by
then, and nothing else says so. Without a GPU the same model's report is read, saved on an H200.
"""

from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from graphrt.capture import Manifest, Report, Role, inspect_graph, load
from graphrt.capture.inspect.tree import tree

SAVED = Path(__file__).parent.parent / "tests" / "capture" / "reports" / "stale-replaced.json.gz"


def captured_report() -> Report:
    """Capture an MLP, replace one of its weights, and return what the graph points at."""
    mlp = nn.Sequential(nn.Linear(512, 1024), nn.GELU(), nn.Linear(1024, 512))
    mlp = mlp.to("cuda", torch.bfloat16).eval()
    x = torch.randn(16, 512, device="cuda", dtype=torch.bfloat16)
    y = torch.empty_like(x)

    stream = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        y.copy_(mlp(x))  # libraries allocate in their first call, which a capture may not
    stream.synchronize()
    graph = torch.cuda.CUDAGraph(keep_graph=True)  # or its nodes are gone after the capture
    with torch.no_grad(), torch.cuda.graph(graph, stream=stream):
        y.copy_(mlp(x))

    manifest = Manifest()
    manifest.declare_module(mlp)
    manifest.declare("x", x, Role.INPUT)
    manifest.declare("y", y, Role.OUTPUT)

    # What a reload of weights does when it assigns instead of copying.
    mlp[2].weight = nn.Parameter(torch.zeros_like(mlp[2].weight), requires_grad=False)
    return inspect_graph(graph, manifest, name="MLP, weight replaced")


def main() -> None:
    """Print the tree of the report; its first lines name the stale pointer."""
    console = Console(highlight=False)
    if torch.cuda.is_available():
        report = captured_report()
    else:
        console.print(f"no GPU: reading {SAVED.name}, saved on an H200")
        report = load(SAVED)
    console.print(tree(report))
    if not any(finding.buffer == "2.weight" for finding in report.errors):
        raise SystemExit("the stale weight was not found")


if __name__ == "__main__":
    main()
