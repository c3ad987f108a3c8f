# SPDX-License-Identifier: Apache-2.0
"""From a graph to a report: every node, argument, copy, body and edge, read through the driver."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch

from graphrt._version import __version__
from graphrt.capture import driver, driver_nodes
from graphrt.capture.audit.links import Stage
from graphrt.capture.inspect import dot
from graphrt.capture.inspect.findings import find
from graphrt.capture.inspect.handles import Handle, handle_of
from graphrt.capture.inspect.manifest import Manifest
from graphrt.capture.inspect.memory import Memory, allocator_memory
from graphrt.capture.inspect.report import (
    Argument,
    Body,
    Edge,
    Function,
    KernelLaunch,
    MemoryCopy,
    MemoryFill,
    MemorySide,
    Node,
    Report,
)
from graphrt.capture.inspect.triton_names import KnownKernels
from graphrt.errors import DriverError

_WARP = 32


def inspect_graph(
    graph: object,
    manifest: Manifest | None = None,
    *,
    name: str = "graph",
    kernels: Iterable[object] = (),
    bodies: Mapping[int, Sequence[int]] | None = None,
    stages: Sequence[Stage] = (),
    linked: Collection[str] = (),
) -> Report:
    """Return what ``graph`` holds. Nothing is launched and nothing changed; needs its device.

    graph: a `CudaGraph`, a ``torch.cuda.CUDAGraph(keep_graph=True)`` or a raw cudaGraph_t.
    manifest: the buffers that its arguments may point at. kernels: compiled Triton kernels, whose
    argument names and constants are then shown; those that a `CudaGraph` keeps are known anyway.
    bodies: of conditional nodes, by handle, for drivers that can neither return nor draw them.
    stages, linked: a chain whose PDL links are audited, as in `audit_graph`. Raises CaptureError
    for what is not a graph that can be read, DriverError if the driver refuses.
    """
    start = time.perf_counter()
    handle = handle_of(graph)
    buffers = manifest.buffers() if manifest is not None else ()
    memory = Memory(buffers, allocator_memory(handle.pool), driver_nodes.is_device_memory)
    known = KnownKernels([*_flat(handle.kept), *kernels])
    reader = _Reader(memory, known, bodies or {})
    reader.read(handle, name)
    made_with = _made_with()
    report = Report(name, tuple(reader.bodies), tuple(reader.functions), buffers, (), made_with)
    return Report(
        name,
        report.bodies,
        report.functions,
        buffers,
        tuple(find(report, declared=bool(buffers), stages=stages, linked=linked)),
        made_with,
        round(time.perf_counter() - start, 4),
    )


class _Reader:
    """Reads body after body; a function is listed once, however many nodes launch it."""

    def __init__(
        self, memory: Memory, known: KnownKernels, bodies: Mapping[int, Sequence[int]]
    ) -> None:
        self.bodies: list[Body] = []
        self.functions: list[Function] = []
        self._memory = memory
        self._known = known
        self._given_bodies = bodies
        self._indices: dict[int, int] = {}
        self._layouts: list[driver_nodes.Layout] = []
        self._occupancies: dict[tuple[int, int, int], float] = {}
        # (name, node handles, graph handle or None); a body's place in it is its index
        self._todo: list[tuple[str, list[int], int | None]] = []
        self._seen: set[int] = set()
        self._drawn: str | None = None
        self._root = 0

    def read(self, handle: Handle, name: str) -> None:
        """Read the graph and everything inside it."""
        self._root = handle.graph
        self._todo.append((name, driver.nodes(handle.graph), handle.graph))
        for body_name, nodes, graph in self._todo:
            self._seen.update(nodes)
            self.bodies.append(self._body(body_name, nodes, graph))

    def _body(self, name: str, handles: list[int], graph: int | None) -> Body:
        places = {handle: place for place, handle in enumerate(handles)}
        edges: list[tuple[int, int, int, int, int]]
        if graph is not None:
            edges = [
                (edge.source, edge.target, edge.from_port, edge.to_port, edge.type)
                for edge in driver.edges(graph)
            ]
        else:
            edges = [
                (source, target, from_port, to_port, type_)
                for target in handles
                for source, from_port, to_port, type_ in driver_nodes.dependencies(target)
            ]
        nodes = tuple(self._node(place, handle, name) for handle, place in places.items())
        return Body(
            name,
            nodes,
            tuple(
                sorted(
                    (Edge(places[s], places[t], *ports) for s, t, *ports in edges),
                    key=lambda edge: (edge.target, edge.source),
                )
            ),
        )

    def _node(self, place: int, handle: int, body: str) -> Node:
        kind = driver.node_type(handle)
        if kind == "kernel":
            return Node(place, kind, kernel=self._kernel(handle))
        if kind == "memcpy":
            return Node(place, kind, copy=self._copy(handle))
        if kind == "memset":
            return Node(place, kind, fill=self._fill(handle))
        if kind == "mem_alloc":
            address, nbytes = driver_nodes.allocation(handle)
            side = MemorySide("device", self._memory.pointer(address))
            return Node(place, kind, allocation=side, note=f"{nbytes} bytes")
        if kind == "mem_free":
            side = MemorySide("device", self._memory.pointer(driver_nodes.freed_address(handle)))
            return Node(place, kind, allocation=side)
        if kind == "child_graph":
            graph = driver_nodes.child_graph(handle)
            inside = self._inside(f"{body}/{place}", driver.nodes(graph), graph)
            return Node(place, kind, bodies=(inside,))
        if kind == "conditional":
            return self._conditional(place, handle, body)
        return Node(place, kind)

    def _inside(self, name: str, nodes: list[int], graph: int | None) -> int:
        self._todo.append((name, nodes, graph))
        self._seen.update(nodes)
        return len(self._todo) - 1

    def _conditional(self, place: int, handle: int, body: str) -> Node:
        said = driver_nodes.conditional_bodies(handle)
        condition, graphs = said if said is not None else ("", ())
        graphs = tuple(self._given_bodies.get(handle, ())) or graphs
        name = f"{body}/{place}"
        if graphs:
            inside = [
                self._inside(f"{name}.{index}", driver.nodes(graph), graph)
                for index, graph in enumerate(graphs)
            ]
            return Node(place, "conditional", bodies=tuple(inside), note=condition)
        inside = [
            self._inside(f"{name}.{index}", nodes, None)
            for index, nodes in enumerate(self._drawn_bodies())
        ]
        condition = dot.conditions(self._drawing()).get(handle, "")
        note = (
            condition
            if inside
            else f"{condition}, its bodies are not shown: this driver does not tell".lstrip(", ")
        )
        return Node(place, "conditional", bodies=tuple(inside), note=note)

    def _drawn_bodies(self) -> list[list[int]]:
        """Return the bodies in the driver's drawing that nothing read so far accounts for."""
        drawn = dot.bodies(self._drawing()).values()
        return [nodes for nodes in drawn if nodes and not self._seen & set(nodes)]

    def _drawing(self) -> str:
        """Return the driver's drawing of the whole graph, made once; nothing where it cannot."""
        if self._drawn is None:
            try:
                self._drawn = driver_nodes.dot(self._root)
            except (DriverError, OSError):
                self._drawn = ""
        return self._drawn

    def _kernel(self, handle: int) -> KernelLaunch:
        launch = driver_nodes.launch(handle)
        index = self._function(launch.function)
        layout, function = self._layouts[index], self.functions[index]
        values = driver_nodes.values(launch.values, launch.extra, layout)
        attributes = driver_nodes.attributes(handle)
        threads = launch.block[0] * launch.block[1] * launch.block[2]
        return KernelLaunch(
            index,
            launch.grid,
            launch.block,
            launch.shared_bytes,
            self._occupancy(launch.function, threads, launch.shared_bytes),
            tuple(
                Argument(value.hex(), self._memory.pointers(value, parameter.type))
                for value, parameter in zip(values, function.parameters, strict=False)
            ),
            attributes.cluster,
            attributes.cooperative,
            attributes.priority,
        )

    def _function(self, function: int) -> int:
        if function not in self._indices:
            facts = driver_nodes.function_facts(function)
            self._indices[function] = len(self.functions)
            self.functions.append(self._known.describe(function, facts))
            self._layouts.append(facts.layout)
        return self._indices[function]

    def _occupancy(self, function: int, threads: int, shared_bytes: int) -> float:
        key = (function, threads, shared_bytes)
        if key not in self._occupancies:
            try:
                blocks = driver_nodes.blocks_per_multiprocessor(*key)
                warps = blocks * -(-threads // _WARP)
                self._occupancies[key] = round(warps * _WARP / _multiprocessor_threads(), 4)
            except DriverError:
                self._occupancies[key] = -1.0
        return self._occupancies[key]

    def _side(self, side: driver_nodes.Side) -> MemorySide:
        return MemorySide(side.memory, self._memory.pointer(side.address), side.pitch_bytes)

    def _copy(self, handle: int) -> MemoryCopy:
        copy = driver_nodes.copy(handle)
        return MemoryCopy(
            self._side(copy.source),
            self._side(copy.target),
            copy.width_bytes,
            copy.height,
            copy.depth,
        )

    def _fill(self, handle: int) -> MemoryFill:
        fill = driver_nodes.fill(handle)
        side = MemorySide("device", self._memory.pointer(fill.address), fill.pitch_bytes)
        return MemoryFill(side, fill.value, fill.element_bytes, fill.width, fill.height)


def _flat(objects: Iterable[object]) -> Iterable[object]:
    for item in objects:
        if isinstance(item, (list, tuple, set, frozenset)):
            yield from _flat(item)
        else:
            yield item


def _multiprocessor_threads() -> int:
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return int(properties.max_threads_per_multi_processor)


def _made_with() -> dict[str, str]:
    """Return versions and the device, as far as they can be told."""
    found = {
        "graphrt": __version__,
        "torch": torch.__version__,
        "cuda_bindings": driver.bindings_version(),
    }
    version = driver.driver_version()
    if version is not None:
        found["driver_cuda"] = ".".join(map(str, version))
    if torch.cuda.is_available():
        device = torch.cuda.current_device()
        found["gpu"] = torch.cuda.get_device_name(device)
        found["architecture"] = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    return found
