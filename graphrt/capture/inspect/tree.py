# SPDX-License-Identifier: Apache-2.0
"""A report as a tree for a terminal."""

from __future__ import annotations

from collections import Counter

from rich.text import Text
from rich.tree import Tree

from graphrt.capture.inspect.findings import pointers_of
from graphrt.capture.inspect.fingerprint import short_fingerprint
from graphrt.capture.inspect.fold import fold, short_name
from graphrt.capture.inspect.report import Argument, Body, Node, Parameter, PointsTo, Report

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
_PROGRAMMATIC = "cyan"
_BUFFERS_IN_LINE = 6


def tree(report: Report, *, full: bool = False) -> Tree:
    """Return ``report`` as a tree: findings, nodes with repeated layers folded, buffers.

    full: every argument has a line; otherwise a node names the buffers it points at.
    """
    root = Tree(Text(headline(report), style="bold"))
    made = ", ".join(f"{name} {value}" for name, value in report.made_with.items())
    if made:
        root.add(Text(made, style="dim"))
    _findings(report, root)
    _body(report, 0, root.add(Text("nodes")), full)
    if report.buffers:
        _buffers(report, root)
    return root


def headline(report: Report) -> str:
    """Return name, counts and fingerprint in one line."""
    nodes = sum(len(body.nodes) for body in report.bodies)
    edges = [edge for body in report.bodies for edge in body.edges]
    linked = sum(edge.programmatic for edge in edges)
    return (
        f"{report.name}: {nodes} nodes, {len(edges)} edges ({linked} programmatic), "
        f"fingerprint {short_fingerprint(report)}"
    )


def _findings(report: Report, root: Tree) -> None:
    if not report.findings:
        root.add(Text("no findings", style="green"))
        return
    branch = root.add(Text(f"findings: {len(report.findings)}"))
    for finding in report.findings:
        branch.add(Text(str(finding), style=_STYLES[finding.severity]))


def _body(report: Report, index: int, branch: Tree, full: bool) -> None:
    body = report.bodies[index]
    for run in fold(report, body):
        into = branch
        if run.count > 1:
            last = run.start + run.nodes - 1
            into = branch.add(
                Text(f"{run.count} times, nodes {run.start} to {last}; the first:", style="magenta")
            )
        for node in body.nodes[run.start : run.start + run.period]:
            _node(report, body, node, into, full)


def _node(report: Report, body: Body, node: Node, branch: Tree, full: bool) -> None:
    line = Text(f"{node.id} ", style="dim")
    line.append(short_name(report.title(node)), style="bold not dim")
    if node.kernel is not None:
        launch, function = node.kernel, report.functions[node.kernel.function]
        line.append(f"  grid {launch.grid} block {launch.block}", style="not dim")
        line.append(f"  {launch.shared_bytes + function.static_shared_bytes} B shared")
        line.append(f", {function.registers} registers")
        if launch.occupancy >= 0:
            line.append(f", {launch.occupancy:.0%} occupancy")
    for edge in body.edges:
        if edge.target == node.id:
            link = " ⇠ " if edge.programmatic else " ← "
            line.append(f"{link}{edge.source}", style=_PROGRAMMATIC if edge.programmatic else "dim")
    below = branch.add(line)
    if node.kernel is not None and full:
        parameters = report.functions[node.kernel.function].parameters
        for number, (argument, parameter) in enumerate(
            zip(node.kernel.arguments, parameters, strict=False)
        ):
            below.add(_argument(number, argument, parameter))
    else:
        _pointers(report, node, below, full)
    for inside in node.bodies:
        _body(report, inside, below.add(Text("body", style="magenta")), full)


def _argument(number: int, argument: Argument, parameter: Parameter) -> Text:
    name = parameter.name or str(number)
    line = Text(f"{name}: {parameter.type or f'{parameter.size} bytes'}", style="dim")
    stale = any(pointer.to.stale for pointer in argument.pointers)
    line.append(f" = {argument_text(argument)}", style="bold red" if stale else "not dim")
    return line


def argument_text(argument: Argument) -> str:
    """Return a value for people: a number, what it points at, or what a structure points at."""
    if not argument.pointers:
        return str(argument.number) if len(argument.value) <= 16 else "no pointers found"
    if len(argument.value) <= 16:
        return str(argument.pointers[0])
    return ", ".join(f"@{pointer.at} {pointer}" for pointer in argument.pointers)


def _pointers(report: Report, node: Node, branch: Tree, full: bool) -> None:
    if node.copy is not None or node.fill is not None or full:
        for name, pointer in pointers_of(report, node):
            branch.add(
                Text(f"{name}: {pointer}", style=_STYLES["error"] if pointer.to.stale else "")
            )
        return
    named: Counter[str] = Counter()
    stale = []
    for _, pointer in pointers_of(report, node):
        if pointer.to.stale:
            stale.append(str(pointer))
        elif pointer.to is not PointsTo.NULL:
            named[pointer.buffer or pointer.to.value] += 1
    for text in dict.fromkeys(stale):
        branch.add(Text(text, style=_STYLES["error"]))
    if named:
        shown = list(named)[:_BUFFERS_IN_LINE]
        more = f" and {len(named) - len(shown)} more" if len(named) > len(shown) else ""
        branch.add(Text(", ".join(shown) + more, style="dim"))


def _buffers(report: Report, root: Tree) -> None:
    total = sum(buffer.nbytes for buffer in report.buffers)
    branch = root.add(Text(f"{len(report.buffers)} declared buffers, {total:,} bytes"))
    by_role: Counter[str] = Counter()
    for buffer in report.buffers:
        by_role[buffer.role] += 1
    branch.add(Text(", ".join(f"{count} {role}" for role, count in by_role.items()), style="dim"))
    for buffer in report.buffers:
        if buffer.status != "live":
            branch.add(Text(f"{buffer.name}: {buffer.status}", style=_STYLES["error"]))
