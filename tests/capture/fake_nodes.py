# SPDX-License-Identifier: Apache-2.0
"""A driver whose graphs are made by hand: as much of cuda-bindings as reading a graph calls.

Handles are numbers; a graph's is the address of real memory, as a driver's is. Answers have the
shapes of cuda-bindings: a status, then outputs, all None when the call fails.
"""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from graphrt.capture import driver
from graphrt.capture.inspect import handles, read

INVALID = 1


class Status(int):
    """A status, as an enumeration of either module."""


class FakeEnum(int):
    """A member of any of the driver's enumerations."""

    @property
    def name(self) -> str:
        return {0: "CU_GRAPH_COND_TYPE_IF", 1: "CU_GRAPH_COND_TYPE_WHILE"}.get(self, str(int(self)))


@dataclass
class Function:
    name: str
    sizes: tuple[int, ...]
    registers: int = 32
    local_bytes: int = 0

    @property
    def layout(self) -> list[tuple[int, int]]:
        """Offsets as a compiler lays parameters out, each aligned to its size."""
        found, end = [], 0
        for size in self.sizes:
            align = min(size, 8)
            start = -(-end // align) * align
            found.append((start, size))
            end = start + size
        return found


@dataclass
class Graph:
    memory: Any
    nodes: list[int] = field(default_factory=list)
    edges: list[tuple[int, int, int, int]] = field(default_factory=list)

    @property
    def handle(self) -> int:
        return ctypes.addressof(self.memory)


class FakeDriver:
    """Graphs, functions and nodes by handle; `install` puts it in the place of cuda-bindings."""

    def __init__(self) -> None:
        self.graphs: dict[int, Graph] = {}
        self.functions: dict[int, Function] = {}
        self.nodes: dict[int, tuple[str, Any]] = {}
        self.device_memory: list[range] = []
        self.tells_bodies = True
        self.generation = 13
        self.drawing = ""
        self.alive: list[Any] = []
        self.calls = 0
        self._handles = itertools.count(0x1000, 0x10)

    # --- building

    def graph(self) -> Graph:
        graph = Graph(ctypes.create_string_buffer(256))
        self.graphs[graph.handle] = graph
        return graph

    def function(self, name: str, *sizes: int, **facts: int) -> int:
        handle = next(self._handles)
        self.functions[handle] = Function(name, sizes, **facts)
        return handle

    def node(self, graph: Graph, kind: str, what: Any, after: Any = ()) -> int:
        handle = next(self._handles)
        self.nodes[handle] = (kind, what)
        graph.nodes.append(handle)
        for source, from_port, type_ in after:
            graph.edges.append((source, handle, from_port, type_))
        return handle

    def kernel(
        self,
        graph: Graph,
        function: int,
        *values: int | bytes,
        grid: tuple[int, int, int] = (1, 1, 1),
        block: tuple[int, int, int] = (128, 1, 1),
        shared: int = 0,
        after: Any = (),
        buffer: bool = False,
        library: bool = False,
    ) -> int:
        """Add a kernel node. buffer: arguments as one piece. library: launched by CUkernel."""
        layout = self.functions[function].layout
        end = layout[-1][0] + layout[-1][1] if layout else 1
        block_memory = ctypes.create_string_buffer(end)
        base = ctypes.addressof(block_memory)
        for (offset, size), value in zip(layout, values, strict=True):
            data = value if isinstance(value, bytes) else value.to_bytes(size, "little")
            ctypes.memmove(base + offset, data, size)
        places = (ctypes.c_uint64 * max(1, len(layout)))(*[base + offset for offset, _ in layout])
        size_word = ctypes.c_uint64(end)
        extra = (ctypes.c_uint64 * 5)(1, base, 2, ctypes.addressof(size_word), 0)
        self.alive += [block_memory, places, size_word, extra]
        params = SimpleNamespace(
            func=0 if library else function,
            kern=function if library else 0,
            gridDimX=grid[0],
            gridDimY=grid[1],
            gridDimZ=grid[2],
            blockDimX=block[0],
            blockDimY=block[1],
            blockDimZ=block[2],
            sharedMemBytes=shared,
            kernelParams=0 if buffer else ctypes.addressof(places),
            extra=ctypes.addressof(extra) if buffer else 0,
        )
        return self.node(graph, "Kernel", params, after)

    # --- answering

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put this driver in the place of the real one, and say that a GPU is there."""
        ours = SimpleNamespace(**self._driver_calls())
        theirs = SimpleNamespace(**self._runtime_calls())
        monkeypatch.setattr(driver, "_driver", lambda: ours)
        monkeypatch.setattr(driver, "_runtime", lambda: theirs)
        monkeypatch.setattr(driver, "driver_version", lambda: (13, 0))
        monkeypatch.setattr(read, "_multiprocessor_threads", lambda: 2048)
        monkeypatch.setattr(handles, "signature", lambda: ())

    def _of(self, kind: str) -> Any:
        def answer(node: Any) -> Any:
            found, what = self.nodes.get(int(node), ("", None))
            return (0, what) if found == kind else (INVALID, None)

        return answer

    def _driver_calls(self) -> dict[str, Any]:
        def param_info(function: int, index: int) -> Any:
            layout = self.functions[int(function)].layout
            return (0, *layout[index]) if index < len(layout) else (INVALID, None, None)

        def attribute(number: int, function: int) -> Any:
            facts = self.functions[int(function)]
            return 0, {0: 1024, 1: 0, 3: facts.local_bytes, 4: facts.registers, 6: 90}[int(number)]

        def node_attribute(node: int, number: int) -> Any:
            zero = SimpleNamespace(x=0, y=0, z=0)
            return 0, SimpleNamespace(clusterDim=zero, cooperative=0, priority=0)

        def pointer_attribute(number: int, address: int) -> Any:
            known = any(address in area for area in self.device_memory)
            return (0, 2) if known else (INVALID, None)

        def dependencies(node: int, count: int) -> Any:
            graph = next(g for g in self.graphs.values() if int(node) in g.nodes)
            into = [e for e in graph.edges if e[1] == int(node)]
            data = [SimpleNamespace(from_port=p, to_port=0, type=t) for _, _, p, t in into]
            return (0, [e[0] for e in into], data, len(into)) if count else (0, [], [], len(into))

        def node_params(node: int) -> Any:
            kind, bodies = self.nodes[int(node)]
            if kind != "Conditional" or not self.tells_bodies:
                return INVALID, None
            conditional = SimpleNamespace(type=FakeEnum(1), phGraph_out=bodies)
            return 0, SimpleNamespace(conditional=conditional)

        def draw(graph: int, path: bytes, flags: int) -> Any:
            with open(path, "w", encoding="utf-8") as file:
                file.write(self.drawing)
            return (0,)

        calls = {
            "cuGraphKernelNodeGetParams": self._of("Kernel"),
            "cuGraphMemcpyNodeGetParams": self._of("Memcpy"),
            "cuGraphMemsetNodeGetParams": self._of("Memset"),
            "cuGraphMemAllocNodeGetParams": self._of("MemAlloc"),
            "cuGraphMemFreeNodeGetParams": self._of("MemFree"),
            "cuGraphChildGraphNodeGetGraph": self._of("Graph"),
            "cuGraphNodeGetParams": node_params,
            "cuKernelGetFunction": lambda kernel: (0, kernel),
            "cuFuncGetName": lambda function: (0, self.functions[int(function)].name.encode()),
            "cuFuncGetParamInfo": param_info,
            "cuFuncGetAttribute": attribute,
            "cuGraphKernelNodeGetAttribute": node_attribute,
            "cuOccupancyMaxActiveBlocksPerMultiprocessor": lambda f, threads, shared: (0, 4),
            "cuPointerGetAttribute": pointer_attribute,
            "cuGraphDebugDotPrint": draw,
            "cuGetErrorName": lambda status: (0, b"CUDA_ERROR_INVALID_VALUE"),
            "cuGetErrorString": lambda status: (0, b"invalid argument"),
            "CUfunction_attribute": FakeEnum,
            "CUlaunchAttributeID": FakeEnum,
            "CUpointer_attribute": FakeEnum,
        }
        suffix = "_v2" if self.generation == 12 else ""
        calls[f"cuGraphNodeGetDependencies{suffix}"] = dependencies
        return calls

    def _runtime_calls(self) -> dict[str, Any]:
        def nodes(graph: int, count: int) -> Any:
            self.calls += 1
            found = self.graphs[int(graph)].nodes
            return (0, found, len(found)) if count else (0, [], len(found))

        def edges(graph: int, count: int) -> Any:
            found = self.graphs[int(graph)].edges
            if not count:
                return 0, [], [], [], len(found)
            data = [SimpleNamespace(from_port=p, to_port=0, type=t) for _, _, p, t in found]
            return 0, [e[0] for e in found], [e[1] for e in found], data, len(found)

        def node_type(node: int) -> Any:
            kind, _ = self.nodes[int(node)]
            return 0, SimpleNamespace(name=f"cudaGraphNodeType{kind}")

        calls = {"cudaGraphGetNodes": nodes, "cudaGraphNodeGetType": node_type}
        calls["cudaGraphGetEdges_v2" if self.generation == 12 else "cudaGraphGetEdges"] = edges
        return calls


def compiled(
    function: int, name: str, pdl: bool = False, constants: Any = None, **signature: str
) -> Any:
    """Return what a Triton launch returns, as far as inspection looks at it."""
    return SimpleNamespace(
        function=function,
        metadata=SimpleNamespace(name=name, num_warps=4, num_stages=2, launch_pdl=pdl),
        src=SimpleNamespace(signature=signature, constants=constants or {}),
    )
