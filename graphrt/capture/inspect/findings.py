# SPDX-License-Identifier: Apache-2.0
"""What a report gives cause to say: stale pointers first, then lost links, then notes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from graphrt.capture.audit.edges import Node as AuditNode
from graphrt.capture.audit.edges import audit_graph
from graphrt.capture.audit.links import Stage
from graphrt.capture.audit.verdict import Severity
from graphrt.capture.driver import Edge as DriverEdge
from graphrt.capture.inspect.fold import short_name
from graphrt.capture.inspect.report import Finding, Node, Pointer, PointsTo, Report

SEVERITIES = ("error", "warning", "note")
_AUDIT = {
    Severity.RACE: "error",
    Severity.UNDECIDED: "warning",
    Severity.LOST_OVERLAP: "warning",
    Severity.NOTE: "note",
}


def find(
    report: Report,
    *,
    declared: bool,
    stages: Sequence[Stage] = (),
    linked: Collection[str] = (),
) -> list[Finding]:
    """Return the findings about ``report``, worst first.

    declared: buffers were declared, so that memory nobody declared is worth a note. What is wrong
    in the same way in many nodes is one finding, at the first of them.
    """
    found = [*_pointers(report, declared), *_functions(report), *_unread(report)]
    if stages:
        found += _links(report, stages, linked)
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def pointers_of(report: Report, node: Node) -> Iterator[tuple[str, Pointer]]:
    """Yield every address of a node with what holds it: an argument's name, ``source`` …"""
    if node.kernel is not None:
        parameters = report.functions[node.kernel.function].parameters
        for index, (argument, parameter) in enumerate(
            zip(node.kernel.arguments, parameters, strict=False)
        ):
            for pointer in argument.pointers:
                name = parameter.name or f"argument {index}"
                yield (f"{name} + {pointer.at}" if pointer.at else name), pointer
    if node.copy is not None:
        yield "source", node.copy.source.pointer
        yield "target", node.copy.target.pointer
    if node.fill is not None:
        yield "target", node.fill.target.pointer


def _pointers(report: Report, declared: bool) -> Iterator[Finding]:
    groups: dict[tuple[str, str, PointsTo, str], list[tuple[int, int, Pointer]]] = defaultdict(list)
    for body, node in report.walk():
        for argument, pointer in pointers_of(report, node):
            if pointer.to in (PointsTo.BUFFER, PointsTo.NULL, PointsTo.POOL):
                continue
            if not pointer.to.stale and not declared:
                continue
            whole = argument.partition(" + ")[0]
            groups[report.title(node), whole, pointer.to, pointer.buffer].append(
                (body, node.id, pointer)
            )
    for (title, argument, to, buffer), where in groups.items():
        body, node_id, pointer = where[0]
        others = len({place[:2] for place in where}) - 1
        nodes = f" (and {others} more nodes)" if others else ""
        inside = [p.at for b, n, p in where if (b, n) == (body, node_id)]
        at = f", at byte {', '.join(map(str, inside))} of it," if len(inside) > 1 else ""
        place = f"{short_name(title)}, node {node_id}{nodes}: {argument}{at}"
        yield Finding(
            "error" if to.stale else "note",
            f"pointer to {to.value} memory",
            f"{place} {_said(report, pointer)}",
            body,
            node_id,
            argument,
            buffer,
        )


def _said(report: Report, pointer: Pointer) -> str:
    """Return what an address points at, and what to do about it."""
    here = f"{pointer.address:#x}"
    now = f", where {pointer.now} lies now" if pointer.now else ""
    place = f"{pointer.buffer} + {pointer.offset_bytes}"
    if pointer.to is PointsTo.MOVED:
        there = next(b.address_now for b in report.buffers if b.name == pointer.buffer)
        return (
            f"points at {here}, which was {place}{now}; {pointer.buffer} lies at {there:#x} today: "
            "copy into the old tensor instead of replacing it, or capture again"
        )
    if pointer.to is PointsTo.FREED:
        return (
            f"points at {here}, which was {place}{now}; {pointer.buffer} was freed: keep the "
            "tensor as long as the graph, or capture again"
        )
    if pointer.to is PointsTo.RELEASED:
        return (
            f"points at {here}, memory that the allocator holds and that no tensor uses: what it "
            "was captured with has been freed"
        )
    if pointer.to is PointsTo.UNKNOWN:
        return f"points at {here}, where nothing is known to lie"
    return f"points at {here}, {pointer.to.value} memory that is not declared"


def _functions(report: Report) -> Iterator[Finding]:
    for index, function in enumerate(report.functions):
        if not function.local_bytes:
            continue
        where = [(b, n) for b, n in report.walk() if n.kernel and n.kernel.function == index]
        yield Finding(
            "note",
            "local memory",
            f"{function.name} uses {function.local_bytes} bytes of local memory a thread: spills, "
            "or an array on its stack",
            where[0][0] if where else 0,
            where[0][1].id if where else -1,
        )


def _unread(report: Report) -> Iterator[Finding]:
    used = {pointer.buffer for _, node in report.walk() for _, pointer in pointers_of(report, node)}
    unused = [buffer.name for buffer in report.buffers if buffer.name not in used]
    if unused:
        yield Finding(
            "note",
            "unused buffer",
            f"no node points at {', '.join(unused[:8])}"
            + (f" and {len(unused) - 8} more declared buffers" if len(unused) > 8 else ""),
        )


def _links(report: Report, stages: Sequence[Stage], linked: Collection[str]) -> Iterator[Finding]:
    for index, body in enumerate(report.bodies):
        nodes = {
            node.id: AuditNode(node.kind, report.title(node) if node.kernel else "")
            for node in body.nodes
        }
        edges = [
            DriverEdge(edge.source, edge.target, edge.from_port, edge.to_port, edge.type)
            for edge in body.edges
        ]
        for finding in audit_graph(nodes, edges, stages, linked).findings:
            yield Finding(
                _AUDIT[finding.severity],
                finding.rule.value,
                f"{finding.severity.value}: {finding.sentence} ({len(finding.nodes)} nodes)",
                index,
                finding.nodes[0] if finding.nodes else -1,
                finding.argument or "",
            )
