# SPDX-License-Identifier: Apache-2.0
"""Reports that tools.gpu_inspection saved on an H200, for tests without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from graphrt.capture.inspect.report import Body, Node, Report
from graphrt.capture.inspect.schema import load

FOLDER = Path(__file__).parent / "reports"
NAMES = sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz"))


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.json.gz"


@cache
def saved(name: str) -> Report:
    return load(path_of(name))


def with_node(report: Report, place: int, change: Callable[[Node], Node]) -> Report:
    """Return ``report`` with one node of the graph itself changed."""
    first = report.bodies[0]
    nodes = [change(node) if node.id == place else node for node in first.nodes]
    return replace(report, bodies=(replace(first, nodes=tuple(nodes)), *report.bodies[1:]))


def without_nodes(report: Report, places: set[int]) -> Report:
    """Return ``report`` without some nodes of the graph itself; their neighbours are joined."""
    first = report.bodies[0]
    kept = [node for node in first.nodes if node.id not in places]
    renamed = {node.id: place for place, node in enumerate(kept)}
    edges = []
    for edge in first.edges:
        source = edge.source
        while source in places:
            source = next(e.source for e in first.edges if e.target == source)
        if edge.target in renamed:
            edges.append(replace(edge, source=renamed[source], target=renamed[edge.target]))
    nodes = tuple(replace(node, id=place) for place, node in enumerate(kept))
    return replace(report, bodies=(Body(first.name, nodes, tuple(edges)), *report.bodies[1:]))
