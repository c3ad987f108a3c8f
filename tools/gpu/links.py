# SPDX-License-Identifier: Apache-2.0
"""links: which dependencies of the captured graphs are programmatic, read back from the graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from graphrt.capture import driver
from graphrt.capture.cuda_graph import CudaGraph
from graphrt.capture.driver import Edge
from graphrt.capture.graph import Graph
from graphrt.kernels.links import StageAccess, kernels_of
from graphrt.kernels.pdl import pdl_supported
from graphrt.runtime import DecodeRuntime
from graphrt.step import ChainStep
from tools.gpu.settings import Settings
from tools.gpu.workload import captured, describe, random_weights, serving_config

LAYERS = 2


def programmatic_links(settings: Settings) -> dict[str, Any]:
    """Require every edge of the chain to be programmatic, and none when PDL is off."""
    supported = pdl_supported(settings.device)
    failures: list[str] = []
    graphs = []
    for pdl, buckets in ((True, settings.buckets), (False, settings.buckets[:1])):
        config = serving_config(
            settings,
            layers=LAYERS,
            slots=settings.slots,
            buckets=buckets,
            launch_tokens=(1, 6) if pdl else (6,),
            pdl=pdl,
        )
        weights = random_weights(config, torch.Generator(config.device).manual_seed(0))
        with DecodeRuntime(config) as runtime:
            runtime.capture(ChainStep(config, weights))
            for graph in captured(runtime):
                names, edges = read_graph(graph.graph)
                stages = graph.value.chain.stages
                found = check_chain(names, edges, stages, LAYERS, linked=pdl and supported)
                what = f"bucket {graph.bucket}, T {graph.tokens}, PDL {'on' if pdl else 'off'}"
                failures += [f"{what}: {failure}" for failure in found]
                graphs.append(
                    {
                        "bucket": graph.bucket,
                        "tokens": graph.tokens,
                        "pdl": pdl,
                        "nodes": dict(Counter(names.values())),
                        "programmatic_edges": sum(edge.programmatic for edge in edges),
                        "full_edges": sum(not edge.programmatic for edge in edges),
                    }
                )
    return {
        "failures": failures,
        "config": describe(config),
        "pdl_supported": supported,
        "graphs": graphs,
    }


def read_graph(graph: Graph) -> tuple[dict[int, str], list[Edge]]:
    """Return what each node is, a kernel's name or its kind, and the edges.

    Raises TypeError for a graph that is not a CUDA graph: there is nothing to read.
    """
    if not isinstance(graph, CudaGraph):
        raise TypeError(f"{type(graph).__name__}: only CUDA graphs can be read back")
    raw, names = graph.raw_graph, {}
    for node in driver.nodes(raw):
        kind = driver.node_type(node)
        names[node] = driver.kernel(node).name if kind == "kernel" else f"<{kind}>"
    return names, driver.edges(raw)


def check_chain(
    names: dict[int, str],
    edges: Sequence[Edge],
    stages: Sequence[StageAccess],
    layers: int,
    *,
    linked: bool,
) -> list[str]:
    """Return what is wrong with the graph of a chain alone: advance, then every layer in order."""
    expected = kernels_of(stages, layers)
    failures = []
    order = chain_order(names, edges)
    if order != expected:
        failures.append(f"the nodes in order are {order}")
    known = Counter(pairwise(expected))  # nothing but the chain is in the graph
    for link, count in known.items():
        failures += _check_link(link, count, names, edges, linked=linked)
    others = [edge for edge in edges if (names[edge.source], names[edge.target]) not in known]
    failures += [
        f"{names[edge.source]} → {names[edge.target]} is not a full dependency: {edge}"
        for edge in others
        if (edge.from_port, edge.to_port, edge.type) != (0, 0, 0)
    ]
    return failures


def check_links(
    names: dict[int, str],
    edges: Sequence[Edge],
    stages: Sequence[StageAccess],
    layers: int,
    *,
    linked: bool,
) -> list[str]:
    """Return what is wrong with the chain's links in a graph that may hold other work too.

    What comes before an entry may be anything there, and is not looked at.
    """
    found = [
        _check_link((before.kernel, stage.kernel), layers, names, edges, linked=linked)
        for before, stage in pairwise(stages[1:])
        if not stage.entry
    ]
    return [failure for failures in found for failure in failures]


def _check_link(
    link: tuple[str, str],
    count: int,
    names: dict[int, str],
    edges: Sequence[Edge],
    *,
    linked: bool,
) -> list[str]:
    types = [edge.type for edge in edges if (names[edge.source], names[edge.target]) == link]
    if types == [int(linked)] * count:
        return []
    return [f"{' → '.join(link)}: edge types {types}, {count} edges of type {int(linked)} expected"]


def chain_order(names: dict[int, str], edges: Sequence[Edge]) -> list[str]:
    """Return the names along the edges from the one node without a predecessor.

    A node with two successors, or one that is not reached, ends the list early.
    """
    after: dict[int, list[int]] = {node: [] for node in names}
    for edge in edges:
        after[edge.source].append(edge.target)
    targets = {edge.target for edge in edges}
    here = [node for node in names if node not in targets]
    order: list[str] = []
    while len(here) == 1 and len(order) < len(names):
        order.append(names[here[0]])
        here = after[here[0]]
    return order
