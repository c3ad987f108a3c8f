# SPDX-License-Identifier: Apache-2.0
"""What differs between two graphs: other buckets, commits or versions, or a file kept as golden.

Nodes that are alike are paired first, in order, then nodes of one name between those; what is left
was added or removed. So a removed layer is a removed layer, and not a change of all that follow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from graphrt.capture.inspect.fingerprint import differences, facts
from graphrt.capture.inspect.report import Buffer, Edge, Node, Report


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs.

    kind: ``added``, ``removed`` or ``changed`` for a node or a buffer. where: the body and the
    node's id in it, in the new graph, in the old one for what was removed; or the buffer's name.
    what: what changed of it, such as ``grid`` or ``argument x_ptr``; before and after: its values.
    """

    kind: str
    where: str
    title: str
    what: str = ""
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        """Return one line."""
        if not self.what:
            return f"{self.kind} {self.where} {self.title}".strip()
        return f"changed {self.where} {self.title}: {self.what}: {self.before} → {self.after}"


@dataclass(frozen=True, slots=True)
class GraphDiff:
    """What differs between two graphs.

    graph: what makes them other graphs. code: registers, local memory and static shared memory of
    kernels of one name, which depend on the compiler and do not count.
    """

    old: str
    new: str
    graph: tuple[Difference, ...]
    code: tuple[Difference, ...] = ()

    @property
    def same(self) -> bool:
        """Whether the graphs are the same but for addresses and what the compiler chose."""
        return not self.graph

    def __str__(self) -> str:
        """Return a summary, and one line a difference; alike ones of several nodes as one."""
        counts = Counter(difference.kind for difference in self.graph)
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        lines = [f"{self.old} → {self.new}: {said or 'the same graph'}"]
        lines += [f"  {line}" for line in grouped(self.graph)]
        if self.code:
            lines += ["compiled differently:", *(f"  {line}" for line in grouped(self.code))]
        return "\n".join(lines)


def diff_reports(old: Report, new: Report) -> GraphDiff:
    """Return what differs from ``old`` to ``new``."""
    found = list(_bodies(old, new, 0, 0))
    found += _buffers(old.buffers, new.buffers)
    return GraphDiff(old.name, new.name, tuple(found), tuple(_code(old, new)))


def grouped(differences_: Sequence[Difference]) -> Iterator[str]:
    """Yield one line for each kind of difference, with the count of nodes that have it."""
    groups: dict[tuple[str, ...], list[Difference]] = {}
    for each in differences_:
        key = (each.kind, each.title, each.what, each.before, each.after)
        groups.setdefault(key, []).append(each)
    for alike in groups.values():
        more = f" (and {len(alike) - 1} more)" if len(alike) > 1 else ""
        yield f"{alike[0]}{more}"


# --- nodes ---------------------------------------------------------------------------------------


def _bodies(old: Report, new: Report, old_body: int, new_body: int) -> Iterator[Difference]:
    """Yield what differs between two bodies and everything inside nodes that both have."""
    before, after = old.bodies[old_body], new.bodies[new_body]
    old_facts = [facts(old, node) for node in before.nodes]
    new_facts = [facts(new, node) for node in after.nodes]
    pairs = pair(old_facts, new_facts)
    prefix = f"body {new_body} " if new_body else ""
    partners = dict(pairs)
    there = set(partners.values())
    for node in before.nodes:
        if node.id not in partners:
            yield Difference("removed", f"{prefix}node {node.id}", old.title(node))
    for node in after.nodes:
        if node.id not in there:
            yield Difference("added", f"{prefix}node {node.id}", new.title(node))

    def changed(node: Node, what: str, was: str, now: str) -> Difference:
        return Difference("changed", f"{prefix}node {node.id}", new.title(node), what, was, now)

    edges = _edge_changes(before.edges, after.edges, partners)
    for was, now in pairs:
        node = after.nodes[now]
        for change in differences(old_facts[was], new_facts[now]):
            yield changed(node, *change)
        for source, edge_was, edge_is in edges.get(now, ()):
            title = new.title(after.nodes[source])
            yield changed(node, f"edge from {title}", edge_was, edge_is)
        inside = before.nodes[was].bodies, node.bodies
        if len(inside[0]) != len(inside[1]):
            yield changed(node, "bodies", str(len(inside[0])), str(len(inside[1])))
        for old_inner, new_inner in zip(*inside, strict=False):
            yield from _bodies(old, new, old_inner, new_inner)


def pair(old: Sequence[dict[str, str]], new: Sequence[dict[str, str]]) -> list[tuple[int, int]]:
    """Return which nodes of two sequences are each other's, as places in both, in order."""

    def whole(node: dict[str, str]) -> Hashable:
        return tuple(node.items())

    def name(node: dict[str, str]) -> Hashable:
        return node["kind"], node["what"]

    # No edge moves a node's place, so order is all there is to go by.
    found: list[tuple[int, int]] = []
    for gap_old, gap_new in _match(old, new, range(len(old)), range(len(new)), whole, found):
        for _ in _match(old, new, gap_old, gap_new, name, found):
            pass
    return sorted(found)


def _match(
    old: Sequence[dict[str, str]],
    new: Sequence[dict[str, str]],
    old_places: range,
    new_places: range,
    key: Callable[[dict[str, str]], Hashable],
    found: list[tuple[int, int]],
) -> Iterator[tuple[range, range]]:
    """Append the places that match by ``key`` to ``found``, yield what is left between them."""
    matcher = SequenceMatcher(
        None,
        [key(old[place]) for place in old_places],
        [key(new[place]) for place in new_places],
        autojunk=False,
    )
    for tag, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        gap = old_places[old_start:old_end], new_places[new_start:new_end]
        if tag == "equal":
            found.extend(zip(*gap, strict=True))
        else:
            yield gap


def _edge_changes(
    old: Sequence[Edge], new: Sequence[Edge], partners: dict[int, int]
) -> dict[int, list[tuple[int, str, str]]]:
    """Return (source, before, after) of edges that came, went or changed, by the target's new id.

    Edges from or to nodes that were added or removed are left out: those say it already.
    """
    kept = set(partners.values())
    before = {
        (partners[e.source], partners[e.target]): _kind(e)
        for e in old
        if e.source in partners and e.target in partners
    }
    after = {(e.source, e.target): _kind(e) for e in new if {e.source, e.target} <= kept}
    found: dict[int, list[tuple[int, str, str]]] = {}
    for source, target in {**before, **after}:
        was, now = before.get((source, target), "none"), after.get((source, target), "none")
        if was != now:
            found.setdefault(target, []).append((source, was, now))
    return found


def _kind(edge: Edge) -> str:
    names = {(0, 0, 0): "full", (1, 0, 1): "programmatic", (2, 0, 1): "programmatic, on launch"}
    ports = (edge.from_port, edge.to_port, edge.type)
    return names.get(ports, "ports {} to {}, type {}".format(*ports))


# --- buffers and code ----------------------------------------------------------------------------


def _buffers(old: Sequence[Buffer], new: Sequence[Buffer]) -> Iterator[Difference]:
    before, after = ({b.name: b for b in buffers} for buffers in (old, new))
    for name in {**before, **after}:
        if name not in after:
            yield Difference("removed", "buffer", name)
        elif name not in before:
            yield Difference("added", "buffer", name)
        else:
            for what in ("shape", "dtype", "role", "padding"):
                was, now = getattr(before[name], what), getattr(after[name], what)
                if was != now:
                    yield Difference("changed", "buffer", name, what, str(was), str(now))


def _code(old: Report, new: Report) -> Iterator[Difference]:
    before, after = ({f.name: f for f in report.functions} for report in (old, new))
    for name in before.keys() & after.keys():
        for what in ("registers", "local_bytes", "static_shared_bytes", "binary_version"):
            was, now = getattr(before[name], what), getattr(after[name], what)
            if was != now:
                yield Difference("changed", "kernel", name, what, str(was), str(now))
