# SPDX-License-Identifier: Apache-2.0
"""Repeated layers as one: where a run of nodes comes again and again, and names short enough."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass

from graphrt.capture.inspect.report import Body, Report

_LONGEST = 256  # nodes of a layer
_FEWEST = 6  # nodes that are worth folding
_LENGTH = re.compile(r"\d+")
# Literals (Li128E) and names already given (S5_, T0_) have numbers too; the others are lengths.
_WORD = re.compile(r"L[a-z]\d+E|[ST][0-9A-Z]*_|(?P<length>\d+)")
_TELLING = re.compile(r"Functor|KernelImpl|_kernel_cuda|_copy_kernel|Ops$|^cutlass_")


@dataclass(frozen=True, slots=True)
class Run:
    """``count`` repetitions of ``period`` nodes, from node ``start`` on; a single node has 1, 1."""

    start: int
    period: int
    count: int

    @property
    def nodes(self) -> int:
        """How many nodes it stands for."""
        return self.period * self.count


def fold(report: Report, body: Body) -> list[Run]:
    """Return the nodes of ``body`` in order as runs, the longest possible at every place.

    Repetitions have nodes of the same kernels, grids, blocks and edges among them.
    """
    keys = _keys(report, body)
    runs: list[Run] = []
    layers: set[tuple[Hashable, ...]] = set()
    place = 0
    while place < len(keys):
        run = _begun_as_before(keys, _best(keys, place), layers)
        if run.count > 1:
            layers.add(_names(keys, run))
        runs += [Run(single, 1, 1) for single in range(place, run.start)] + [run]
        place = run.start + run.nodes
    return runs


@dataclass(frozen=True, slots=True)
class _Key:
    """What a node is, the kinds of edges into it, and those with how far back they come from."""

    name: Hashable
    kinds: tuple[tuple[int, int], ...]
    edges: tuple[tuple[int, int, int], ...]

    def may_begin(self, like: _Key) -> bool:
        """Whether this begins the first repetition of what ``like`` begins the second of.

        What comes before a first repetition is no repetition: the distance may differ, or nothing
        be there at all.
        """
        return self.name == like.name and self.kinds in ((), like.kinds)


def _keys(report: Report, body: Body) -> list[_Key]:
    edges: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for edge in body.edges:
        edges[edge.target].append((edge.target - edge.source, edge.from_port, edge.type))
    keys = []
    for node in body.nodes:
        launch = node.kernel
        sizes = (launch.grid, launch.block, launch.shared_bytes) if launch else ()
        into = tuple(sorted(edges[node.id]))
        kinds = tuple(sorted((port, type_) for _, port, type_ in into))
        keys.append(_Key((node.kind, report.title(node), sizes, len(node.bodies)), kinds, into))
    return keys


def _best(keys: Sequence[_Key], start: int) -> Run:
    best = Run(start, 1, 1)
    for period in range(1, min(_LONGEST, (len(keys) - start) // 2) + 1):
        if not keys[start].may_begin(keys[start + period]):
            continue
        if keys[start + 1 : start + period] != keys[start + period + 1 : start + 2 * period]:
            continue
        end = start + 2 * period
        while end < len(keys) and keys[end] == keys[end - period]:
            end += 1
        run = Run(start, period, (end - start) // period)
        if run.nodes > max(best.nodes, _FEWEST - 1):
            best = run
    return best


def _begun_as_before(keys: Sequence[_Key], run: Run, layers: Set[tuple[Hashable, ...]]) -> Run:
    """Return ``run``, or as many repetitions of a layer seen before, which begin within it.

    Behind a layer that differs, layers begin with the same node as they did ahead of it.
    """
    if run.count == 1 or _names(keys, run) in layers:
        return run
    for start in range(run.start + 1, run.start + run.period):
        other = _best(keys, start)
        if other.count >= run.count and _names(keys, other) in layers:
            return other
    return run


def _names(keys: Sequence[_Key], run: Run) -> tuple[Hashable, ...]:
    return tuple(key.name for key in keys[run.start : run.start + run.period])


def short_name(name: str) -> str:
    """Return what a person calls a kernel: ``vectorized_elementwise_kernel<FillFunctor>``.

    Takes identifiers out of a name that a C++ compiler mangled; another name is returned as it is.
    """
    if not name.startswith("_Z"):
        return name
    nested, inner = _identifiers(name)
    if not nested:
        return name
    telling = next((word for word in inner if _TELLING.search(word)), "")
    return f"{nested[-1]}<{telling}>" if telling else nested[-1]


def _identifiers(name: str) -> tuple[list[str], list[str]]:
    """Return the identifiers of a mangled name up to its template arguments, and behind."""
    place = 3 if name.startswith("_ZN") else 2
    nested: list[str] = []
    while found := _LENGTH.match(name, place):
        place = found.end() + int(found[0])
        if place > len(name):  # mangled by other rules, or cut off
            return [], []
        nested.append(name[found.end() : place])
    inner = []
    while found := _WORD.search(name, place):
        place = found.end()
        if found["length"]:
            place += int(found["length"])
            inner.append(name[found.end() : place])
    return nested, inner
