# SPDX-License-Identifier: Apache-2.0
"""What a graph is made of, as a dictionary that can be stored beside its times and compared.

kernels        how often each kernel is launched, by name and launch shape; other nodes by kind
programmatic   how many PDL edges lead from each kernel to each other one
full           how many ordinary edges do
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from graphrt.capture import driver
from graphrt.capture.cuda_graph import CudaGraph
from graphrt.capture.graph import Graph

Fingerprint: TypeAlias = Callable[[Graph], dict[str, Any]]
"""The seam: any description of a graph whose differences `differences` can list."""


def fingerprint(graph: Graph) -> dict[str, Any]:
    """Return the fingerprint of a captured graph; a recorded one has nothing to read: empty."""
    if not isinstance(graph, CudaGraph):
        return {}
    raw, names, kernels = graph.raw_graph, {}, Counter[str]()
    for node in driver.nodes(raw):
        kind = driver.node_type(node)
        names[node] = kind
        label = f"<{kind}>"
        if kind == "kernel":
            kernel = driver.kernel(node)
            names[node] = kernel.name
            label = f"{kernel.name} {_dims(kernel.grid)} x {_dims(kernel.block)}"
        kernels[label] += 1
    edges: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for edge in driver.edges(raw):
        edges[edge.programmatic][f"{names[edge.source]} -> {names[edge.target]}"] += 1
    return {
        "kernels": dict(sorted(kernels.items())),
        "programmatic": dict(sorted(edges[True].items())),
        "full": dict(sorted(edges[False].items())),
    }


def lost_links(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the links that were programmatic in ``old`` and are not, or fewer, in ``new``."""
    was, now = old.get("programmatic", {}), new.get("programmatic", {})
    return [
        f"{link}: {count} programmatic edges became {now.get(link, 0)}"
        for link, count in was.items()
        if now.get(link, 0) < count and new.get("full", {}).get(link, 0)
    ]


def differences(old: object, new: object, where: str = "") -> list[str]:
    """Return one line for every leaf that differs between two JSON values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for key in dict.fromkeys([*old, *new])
            for line in differences(old.get(key), new.get(key), f"{where} {key}".strip())
        ]
    if old == new:
        return []
    return [f"{where}: was {_leaf(old)}, is {_leaf(new)}"]


def _leaf(value: object) -> str:
    return "absent" if value is None else str(value)


def _dims(dims: tuple[int, int, int]) -> str:
    return "({},{},{})".format(*dims)
