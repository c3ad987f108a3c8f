# SPDX-License-Identifier: Apache-2.0
"""What a captured graph must look like, and a check of it that a capture can afford.

The owner of a graph states it in a `GraphContract`; `violations` reads no more than that needs. For
everything else there is `inspect_graph`.
"""

from __future__ import annotations

import ctypes
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from graphrt.capture import driver, driver_nodes
from graphrt.capture.cuda_graph import CudaGraph
from graphrt.capture.inspect.memory import Memory, allocator_memory
from graphrt.capture.inspect.report import Buffer, PointsTo
from graphrt.capture.inspect.triton_names import argument_types, is_compiled_kernel
from graphrt.errors import ContractError, sentence

ALLOCATIONS = frozenset({"mem_alloc", "mem_free"})
COPIES = frozenset({"memcpy", "memset"})
_WORD = 8
_layouts: WeakKeyDictionary[Any, driver_nodes.Layout] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class GraphContract:
    """What the owner of a graph says of it.

    counts: how many nodes launch each kernel, by its name. only: nothing else is in the graph.
    forbidden: kinds of nodes that must not occur. declared: every pointer that a known Triton
    kernel is given points into a declared buffer or into the pool of the capture. Always required:
    a kernel compiled for programmatic launch has programmatic edges into it and no others, and
    every other known kernel has none. entries: kernels that may follow anything; of these a
    programmatic edge is required only where a known kernel is all that comes before. behind: those
    of them into which no programmatic edge may lead from a known kernel that is no entry.
    """

    counts: Mapping[str, int]
    only: bool = False
    forbidden: frozenset[str] = ALLOCATIONS
    declared: bool = True
    entries: frozenset[str] = frozenset()
    behind: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Known:
    """A compiled kernel as the check needs it, and what was read of its nodes."""

    name: str
    programmatic: bool
    layout: driver_nodes.Layout
    pointers: list[tuple[int, str]]  # index of the argument, its name
    values: list[bytes] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)


def check_contract(
    graph: CudaGraph,
    contract: GraphContract,
    kernels: Iterable[Any],
    buffers: Sequence[Buffer],
) -> None:
    """Raise ContractError, naming everything that is wrong, if ``graph`` breaks ``contract``."""
    found = violations(graph, contract, kernels, buffers)
    if found:
        more = f" (and {len(found) - 5} more)" if len(found) > 5 else ""
        raise ContractError(
            sentence(
                graph.name,
                "not as stated",
                "; ".join(found[:5]) + more,
                "mend the step, or see the whole graph with graphrt.capture.inspect_graph",
            )
        )


def violations(
    graph: CudaGraph,
    contract: GraphContract,
    kernels: Iterable[Any],
    buffers: Sequence[Buffer],
) -> list[str]:
    """Return in what ``graph`` breaks ``contract``, a sentence each.

    kernels: the compiled kernels that the contract is about. buffers: what is declared. Nodes
    inside child graphs and conditional nodes are not looked at.
    """
    raw = graph.raw_graph
    known = {
        int(kernel.function): _Known(
            str(kernel.metadata.name),
            bool(getattr(kernel.metadata, "launch_pdl", False)),
            _layout(kernel),
            [(i, n) for i, (n, t) in enumerate(argument_types(kernel).items()) if t[0] == "*"],
        )
        for kernel in kernels
        if is_compiled_kernel(kernel)
    }
    kinds, strangers, owners = _read(driver.nodes(raw), known)
    found = [
        f"{count} {kind} nodes, none may be there"
        for kind, count in sorted(kinds.items())
        if kind in contract.forbidden or (contract.only and kind != "kernel")
    ]
    found += _counts(contract, known.values(), strangers)
    found += _links(raw, owners, contract)
    if contract.declared:
        found += _undeclared(known.values(), buffers, graph)
    return found


def _read(
    handles: list[int], known: Mapping[int, _Known]
) -> tuple[Counter[str], Counter[int], dict[int, _Known]]:
    """Return kinds of nodes, unknown functions, and the known kernel of each node.

    Leaves what the nodes of a known kernel were launched with in it.
    """
    kinds: Counter[str] = Counter()
    strangers: Counter[int] = Counter()
    owners: dict[int, _Known] = {}
    for handle, launched in zip(handles, driver_nodes.launched(handles), strict=True):
        if launched is None:
            kinds[driver.node_type(handle)] += 1
            continue
        kinds["kernel"] += 1
        function, values, extra = launched
        owner = known.get(function)
        if owner is None:
            strangers[function] += 1
            continue
        owners[handle] = owner
        owner.nodes.append(handle)
        _read_arguments(owner, values, extra)
    return kinds, strangers, owners


def _layout(kernel: Any) -> driver_nodes.Layout:
    """Return where a compiled kernel's arguments lie, asked once while the kernel lives."""
    try:
        found = _layouts.get(kernel)
    except TypeError:  # no key for a weak dictionary
        return driver_nodes.layout(int(kernel.function))
    if found is None:
        found = _layouts[kernel] = driver_nodes.layout(int(kernel.function))
    return found


def _read_arguments(owner: _Known, values: int, extra: int) -> None:
    """Append the arguments of one launch, laid out as the kernel sees them."""
    layout = owner.layout
    if values and layout:
        places = ctypes.string_at(values, _WORD * len(layout))
        first = int.from_bytes(places[:_WORD], "little")
        last = int.from_bytes(places[-_WORD:], "little")
        end, size = layout[-1]
        # The driver keeps them in one piece; then one read takes all of them.
        if last - first == end - layout[0][0]:
            owner.values.append(ctypes.string_at(first, end + size - layout[0][0]))
            return
    block = bytearray(layout[-1][0] + layout[-1][1] - layout[0][0] if layout else 0)
    for (offset, size), value in zip(
        layout, driver_nodes.values(values, extra, layout), strict=False
    ):
        start = offset - layout[0][0]
        block[start : start + size] = value
    owner.values.append(bytes(block))


def _counts(
    contract: GraphContract, known: Iterable[_Known], strangers: Mapping[int, int]
) -> list[str]:
    # Triton compiles one kernel several times, for arguments of other alignment say.
    counts: Counter[str] = Counter()
    for kernel in known:
        counts[kernel.name] += len(kernel.nodes)
    found = [
        f"{counts[name]} nodes of {name}, must be {count}"
        for name, count in contract.counts.items()
        if counts[name] != count
    ]
    if contract.only:
        found += [
            f"{count} nodes of {driver_nodes.function_name(function)}, none may be there"
            for function, count in strangers.items()
        ]
    return found


def _links(graph: int, owners: Mapping[int, _Known], contract: GraphContract) -> list[str]:
    wrong: dict[tuple[str, bool], int] = defaultdict(int)
    early: Counter[tuple[str, str]] = Counter()
    edges = driver.edge_types(graph)
    into = Counter(target for _, target, _ in edges)
    for source, target, type_ in edges:
        owner = owners.get(target)
        before = owners[source].name if source in owners else None
        if owner is not None and owner.name in contract.behind and type_ == 1:
            early[owner.name, before or ""] += before is not None and before not in contract.entries
        if owner is None or owner.programmatic == (type_ == 1):
            continue
        loose = owner.name in contract.entries and (source not in owners or into[target] > 1)
        if not (owner.programmatic and loose):
            wrong[owner.name, owner.programmatic] += 1
    return [
        f"{count} edges into {name} are full, they must be programmatic: PDL is lost"
        if programmatic
        else f"{count} edges into {name} are programmatic, and it was not compiled to wait"
        for (name, programmatic), count in wrong.items()
    ] + [
        f"{count} edges into {name} are programmatic from {before}, which it must not run beside"
        for (name, before), count in early.items()
        if count
    ]


def _undeclared(known: Iterable[_Known], buffers: Sequence[Buffer], graph: CudaGraph) -> list[str]:
    """Return which pointers of known kernels point into nothing that is declared, nor the pool."""
    kernels = [kernel for kernel in known if kernel.values and kernel.pointers]
    if not kernels:
        return []
    tables = [_addresses(kernel) for kernel in kernels]
    # One search for all: numpy takes longer to begin than to look.
    addresses = np.concatenate([table.ravel() for table in tables])
    starts, ends = _intervals(buffers)
    places = np.maximum(np.searchsorted(starts, addresses, "right") - 1, 0)
    outside = ((addresses < starts[places]) | (addresses >= ends[places])) & (addresses != 0)
    if not outside.any():
        return []
    strays: list[tuple[_Known, str, NDArray[np.uint64]]] = []
    begin = 0
    for kernel, table in zip(kernels, tables, strict=True):
        wrong = outside[begin : begin + table.size].reshape(table.shape)
        begin += table.size
        for column, (_, name) in enumerate(kernel.pointers):
            if wrong[:, column].any():
                strays.append((kernel, name, table[wrong[:, column], column]))
    return _stray(strays, buffers, graph)


def _addresses(kernel: _Known) -> NDArray[np.uint64]:
    """Return the values of a kernel's pointers: a row a node, a column a pointer."""
    block = np.frombuffer(b"".join(kernel.values), np.uint8).reshape(len(kernel.values), -1)
    first = kernel.layout[0][0]
    offsets = np.array([kernel.layout[index][0] - first for index, _ in kernel.pointers])
    cells = block[:, (offsets[:, None] + np.arange(_WORD)).ravel()]
    return np.ascontiguousarray(cells).view(np.uint64)


def _stray(
    strays: Iterable[tuple[_Known, str, NDArray[np.uint64]]],
    buffers: Sequence[Buffer],
    graph: CudaGraph,
) -> list[str]:
    """Return what strays outside of declared buffers and of the pool as well."""
    memory = Memory(buffers, allocator_memory(tuple(graph.torch_graph.pool())))
    found = []
    for kernel, name, stray in strays:
        pointers = [memory.pointer(int(address)) for address in stray]
        outside = [p for p in pointers if p.to not in (PointsTo.POOL, PointsTo.BUFFER)]
        if outside:
            found.append(
                f"{name} of {kernel.name} points at {outside[0].address:#x} ({outside[0]}) in "
                f"{len(outside)} nodes, it must point into a declared buffer"
            )
    return found


def _intervals(buffers: Sequence[Buffer]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return where what the live buffers cover begins and ends, in order, none overlapping."""
    covered = sorted((b.address, b.address + b.nbytes) for b in buffers if b.status == "live")
    merged: list[list[int]] = [[0, 0]]
    for start, end in covered:
        if start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    table = np.array(merged, np.uint64)
    return table[:, 0].copy(), table[:, 1].copy()
