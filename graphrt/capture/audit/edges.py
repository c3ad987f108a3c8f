# SPDX-License-Identifier: Apache-2.0
"""The audit of PDL links, graph half: did each link become an edge, and does nothing stand in it?

A pure function over nodes and edges as `graphrt.capture.driver` reads them; it needs no GPU.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from graphrt.capture.audit.links import Stage, chain_links
from graphrt.capture.audit.verdict import Finding, Rule, Severity, Verdict
from graphrt.capture.driver import Edge
from graphrt.errors import CaptureError, sentence


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a graph: its kind as `driver.node_type` names it, and a kernel node's kernel."""

    kind: str
    kernel: str = ""

    def __str__(self) -> str:
        """Return ``memcpy node`` or ``kernel name``."""
        return f"kernel {self.kernel}" if self.kernel else f"{self.kind} node"


def audit_graph(
    nodes: Mapping[int, Node],
    edges: Sequence[Edge],
    stages: Sequence[Stage],
    linked: Collection[str],
) -> Verdict:
    """Return the verdict about the edges of one graph; findings name stages and nodes.

    nodes: by handle. Convicted are: a linked stage whose edge from the stage before is full, or
    that has another node (a copy, a memset, a foreign kernel) in between: lost overlap; a
    programmatic edge that the chain does not declare: a race into a stage that is not linked, else
    undecided, for the code at its end is not known. Equal findings, layer by layer, are one with
    several nodes. A linked entry may follow anything by any edge; only where a stage is all that
    comes before it must the edge be programmatic, and where it is to come behind another entry, not
    from a stage that is none. Raises CaptureError for an edge to a node that is
    not listed.
    """
    for edge in edges:
        if not {edge.source, edge.target} <= set(nodes):
            raise CaptureError(
                sentence("edge", edge, "must join two of the nodes", "pass all nodes of the graph")
            )
    findings: dict[tuple[Severity, Rule, str, str], list[int]] = defaultdict(list)
    audit = _GraphAudit(nodes, edges, stages, linked)
    for node in nodes:
        for severity, rule, stage, text in audit.findings(node):
            findings[severity, rule, stage, text].append(node)
    return Verdict(
        "graph",
        tuple(
            Finding(severity, rule, stage, text, nodes=tuple(where))
            for (severity, rule, stage, text), where in findings.items()
        ),
    )


_Said = tuple[Severity, Rule, str, str]


def _full_edge(before: str, stage: str) -> _Said:
    return (
        Severity.LOST_OVERLAP,
        Rule.EDGE,
        stage,
        f"the edge from {before} to {stage} is full, not programmatic: {stage} starts when "
        f"{before} has completed; launch it with PDL",
    )


class _GraphAudit:
    def __init__(
        self,
        nodes: Mapping[int, Node],
        edges: Sequence[Edge],
        stages: Sequence[Stage],
        linked: Collection[str],
    ) -> None:
        links = chain_links(stages, linked)
        self.nodes = nodes
        self.stages = {stage.kernel: stage.name for stage in stages}
        self.entries = {stage.name for stage in stages if stage.entry and stage.name in linked}
        self.behind = {stage.name for stage in stages if stage.behind}
        self.producers = {
            stage.name: before
            for before, stage in pairwise(stages)
            if links[stage.name].programmatic and not stage.entry
        }
        self.into: dict[int, list[Edge]] = defaultdict(list)
        for edge in edges:
            self.into[edge.target].append(edge)

    def findings(self, node: int) -> Iterator[_Said]:
        """Yield what is wrong with the edges into ``node``."""
        stage = self.stages.get(self.nodes[node].kernel)
        producer = self.producers.get(stage or "")
        if stage in self.entries:
            yield from self._entry(node, stage)
            return
        if stage is not None and producer is not None:
            yield from self._link(node, stage, producer)
        for edge in self.into[node]:
            source = self.nodes[edge.source]
            if not edge.programmatic or (producer and source.kernel == producer.kernel):
                continue
            if stage is not None and producer is None:
                yield (
                    Severity.RACE,
                    Rule.EDGE,
                    stage,
                    f"{stage} starts before {source} has completed, by a programmatic edge that "
                    "is not declared; launch it normally or declare the link",
                )
            else:
                yield (
                    Severity.UNDECIDED,
                    Rule.EDGE,
                    stage or str(self.nodes[node]),
                    f"a programmatic edge leads from {source} to {stage or self.nodes[node]}, "
                    "which the chain does not declare; what the code on both sides does is not "
                    "known",
                )

    def _entry(self, node: int, stage: str) -> Iterator[_Said]:
        if stage in self.behind:
            for edge in self.into[node]:
                before = self.stages.get(self.nodes[edge.source].kernel)
                if edge.programmatic and before is not None and before not in self.entries:
                    yield (
                        Severity.RACE,
                        Rule.EDGE,
                        stage,
                        f"{stage} may start while {before} runs, and reads before its wait what "
                        f"kernels before a layer have written; launch it behind another layer",
                    )
        if len(self.into[node]) != 1:
            return
        (edge,) = self.into[node]
        before = self.stages.get(self.nodes[edge.source].kernel)
        if before is not None and not edge.programmatic:
            yield _full_edge(before, stage)

    def _link(self, node: int, stage: str, producer: Stage) -> Iterator[_Said]:
        direct = [e for e in self.into[node] if self.nodes[e.source].kernel == producer.kernel]
        if any(edge.programmatic for edge in direct):
            return
        if direct:
            yield _full_edge(producer.name, stage)
            return
        between = self._between(node, producer.kernel)
        if between is None:
            yield (
                Severity.UNDECIDED,
                Rule.EDGE,
                stage,
                f"{stage} is linked to {producer.name}, and no path of the graph leads to it from "
                "there; capture both in one graph, one after the other",
            )
            return
        yield (
            Severity.LOST_OVERLAP,
            Rule.SPLIT,
            stage,
            f"{', '.join(str(self.nodes[n]) for n in between)} between {producer.name} and "
            f"{stage}: the signal of {producer.name} is swallowed; pass strides instead of a copy",
        )

    def _between(self, node: int, kernel: str) -> list[int] | None:
        """Return the nodes on the shortest way back to a node of ``kernel``, in graph order."""
        after: dict[int, int] = {node: node}
        todo = [node]
        for current in todo:
            for edge in self.into[current]:
                if edge.source in after:
                    continue
                after[edge.source] = current
                if self.nodes[edge.source].kernel == kernel:
                    way = []
                    step = current
                    while step != node:
                        way.append(step)
                        step = after[step]
                    return way
                todo.append(edge.source)
        return None
