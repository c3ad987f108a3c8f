# SPDX-License-Identifier: Apache-2.0
"""The graph half of the audit, on lists of nodes and edges made by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graphrt.capture.audit.edges import Node, audit_graph
from graphrt.capture.audit.verdict import Rule, Severity, Verdict
from graphrt.capture.driver import Edge
from graphrt.errors import CaptureError
from graphrt.kernels.links import kernels_of, linked_stages, stages_of
from tests.helpers.links import ALL
from tests.helpers.links import INNER as INNER_LINKS

STAGES, FUSED, SINGLE = (stages_of(last) for last in ("state_update", "fused", "single"))
LINKED = linked_stages(ALL, STAGES)
INNER = linked_stages(INNER_LINKS, STAGES)
COPY = "vectorized_elementwise_kernel"


def full(source: int, target: int) -> Edge:
    return Edge(source, target, 0, 0, 0)


def linked(source: int, target: int) -> Edge:
    return Edge(source, target, 1, 0, 1)


def chain(layers: int, on: frozenset[str] = LINKED) -> tuple[dict[int, Node], list[Edge]]:
    """Return what a capture of the chain gives: advance, then three kernels a layer."""
    nodes = {0: Node("kernel", STAGES[0].kernel)}
    edges = []
    for _ in range(layers):
        for stage in STAGES[1:]:
            node = len(nodes)
            edges.append((linked if stage.name in on else full)(node - 1, node))
            nodes[node] = Node("kernel", stage.kernel)
    return nodes, edges


def verdict_on(nodes: dict[int, Node], edges: list[Edge], on: frozenset[str] = LINKED) -> Verdict:
    return audit_graph(nodes, edges, STAGES, on)


def found(verdict: Verdict) -> list[tuple[Severity, Rule, str, tuple[int, ...]]]:
    return [(f.severity, f.rule, f.stage, f.nodes) for f in verdict.findings]


def test_the_chain_s_own_graph_is_acquitted() -> None:
    verdict = verdict_on(*chain(layers=2))
    assert verdict.acquitted and not verdict.findings


def test_the_fused_chain_s_graph_is_acquitted_and_held_to_its_links() -> None:
    """Held to the other chain its kernels have no known order."""
    on = linked_stages(ALL, FUSED)
    nodes, edges = {0: Node("kernel", FUSED[0].kernel)}, []
    for stage in (*FUSED[1:], *FUSED[1:]):
        edges.append(linked(len(nodes) - 1, len(nodes)))
        nodes[len(nodes)] = Node("kernel", stage.kernel)
    assert not audit_graph(nodes, edges, FUSED, on).findings
    lost = [full(e.source, e.target) if e.target == 2 else e for e in edges]
    assert found(audit_graph(nodes, lost, FUSED, on)) == [
        (Severity.LOST_OVERLAP, Rule.EDGE, "fused", (2,))
    ]
    assert audit_graph(nodes, edges, STAGES, LINKED).findings


def test_a_graph_of_one_kernel_a_layer_is_acquitted_and_held_to_its_order() -> None:
    """What reads early behind another layer may not start beside advance."""
    on = linked_stages(ALL, SINGLE)
    kernels = kernels_of(SINGLE, 3)
    nodes = {number: Node("kernel", kernel) for number, kernel in enumerate(kernels)}
    edges = [linked(number, number + 1) for number in range(3)]
    assert not audit_graph(nodes, edges, SINGLE, on).findings
    lost = [full(e.source, e.target) if e.target == 2 else e for e in edges]
    assert found(audit_graph(nodes, lost, SINGLE, on)) == [
        (Severity.LOST_OVERLAP, Rule.EDGE, "single_next", (2,))
    ]
    beside = [linked(0, 2) if e.target == 2 else e for e in edges]  # streams that fork
    assert found(audit_graph(nodes, beside, SINGLE, on)) == [
        (Severity.RACE, Rule.EDGE, "single_next", (2,))
    ]
    foreign = nodes | {9: Node("kernel", COPY)}
    assert not audit_graph(foreign, [*edges, full(9, 2)], SINGLE, on).findings


def test_a_link_that_became_a_full_edge_is_convicted_once_for_all_layers() -> None:
    nodes, edges = chain(layers=3)
    edges = [full(e.source, e.target) if e.target in (2, 5) else e for e in edges]
    verdict = verdict_on(nodes, edges)
    assert found(verdict) == [(Severity.LOST_OVERLAP, Rule.EDGE, "precompute", (2, 5))]
    assert "2 x" in str(verdict)


@pytest.mark.parametrize("between", [Node("memcpy"), Node("memset"), Node("kernel", COPY)], ids=str)
def test_a_node_between_two_stages_is_convicted_and_named(between: Node) -> None:
    """What a ``.contiguous()`` between conv1d and precompute leaves in the graph."""
    nodes, edges = chain(layers=1)
    nodes[9] = between
    edges[1:2] = [full(1, 9), full(9, 2)]
    verdict = verdict_on(nodes, edges)
    assert found(verdict) == [(Severity.LOST_OVERLAP, Rule.SPLIT, "precompute", (2,))]
    assert str(between) in verdict.findings[0].sentence


def test_a_linked_launch_behind_a_foreign_kernel_is_undecided_too() -> None:
    nodes, edges = chain(layers=1)
    nodes[9] = Node("kernel", COPY)
    edges[1:2] = [full(1, 9), linked(9, 2)]
    assert found(verdict_on(nodes, edges)) == [
        (Severity.LOST_OVERLAP, Rule.SPLIT, "precompute", (2,)),
        (Severity.UNDECIDED, Rule.EDGE, "precompute", (2,)),
    ]


def test_a_programmatic_edge_into_a_stage_that_does_not_wait_is_a_race() -> None:
    nodes, edges = chain(2, INNER)
    assert verdict_on(nodes, edges, INNER).acquitted
    edges = [linked(e.source, e.target) if e.target == 4 else e for e in edges]
    assert found(verdict_on(nodes, edges, INNER)) == [(Severity.RACE, Rule.EDGE, "conv1d", (4,))]


@pytest.mark.parametrize("target", [1, 4], ids=["advance", "state_update"])
def test_a_full_edge_from_the_chain_into_conv1d_is_convicted(target: int) -> None:
    nodes, edges = chain(layers=2)
    edges = [full(e.source, e.target) if e.target == target else e for e in edges]
    verdict = verdict_on(nodes, edges)
    assert found(verdict) == [(Severity.LOST_OVERLAP, Rule.EDGE, "conv1d", (target,))]
    assert STAGES[0 if target == 1 else 3].name in verdict.findings[0].sentence


@pytest.mark.parametrize("edge", [full, linked])
@pytest.mark.parametrize("before", [Node("memcpy"), Node("kernel", COPY)], ids=str)
def test_conv1d_may_follow_anything_by_any_edge(before: Node, edge: Callable[..., Edge]) -> None:
    nodes, edges = chain(layers=2)
    nodes[9] = before
    edges[3:4] = [full(3, 9), edge(9, 4)]
    assert not verdict_on(nodes, edges).findings


def test_a_full_edge_into_conv1d_where_streams_join_does_no_harm() -> None:
    nodes, edges = chain(layers=2)
    nodes[9] = Node("kernel", COPY)
    edges[3:4] = [full(3, 4), full(9, 4)]
    assert not verdict_on(nodes, edges).findings


def test_conv1d_without_anything_before_it_is_acquitted() -> None:
    nodes, edges = chain(layers=1)
    assert not verdict_on(nodes, edges[1:]).findings


def test_a_stage_without_its_producer_is_undecided() -> None:
    nodes, edges = chain(layers=1)
    del edges[1]
    assert found(verdict_on(nodes, edges)) == [(Severity.UNDECIDED, Rule.EDGE, "precompute", (2,))]


def test_an_additional_full_edge_from_elsewhere_does_no_harm() -> None:
    nodes, edges = chain(layers=1)
    nodes[9] = Node("memset")
    assert verdict_on(nodes, [*edges, full(9, 2)]).acquitted


def test_other_people_s_links_are_undecided() -> None:
    nodes, edges = chain(layers=1)
    nodes[9] = Node("kernel", COPY)
    verdict = verdict_on(nodes, [*edges, linked(3, 9)])
    assert found(verdict) == [(Severity.UNDECIDED, Rule.EDGE, f"kernel {COPY}", (9,))]


def test_an_edge_to_nowhere_is_refused() -> None:
    nodes, edges = chain(layers=1)
    with pytest.raises(CaptureError, match="pass all nodes"):
        verdict_on(nodes, [*edges, full(3, 77)])
