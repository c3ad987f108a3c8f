# SPDX-License-Identifier: Apache-2.0
"""What the driver says about one node of a graph: launches, arguments, copies, bodies.

Handles are plain ints, as in `graphrt.capture.driver`, through which every call goes. Answers are
the driver's own, uninterpreted; `graphrt.capture.inspect` makes sense of them. A failing call
raises DriverError.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphrt.capture.driver import (
    Dim3,
    driver_call,
    driver_enum,
    driver_function,
    has_driver_call,
)
from graphrt.errors import DriverError

Layout: TypeAlias = tuple[tuple[int, int], ...]
"""(offset, size) in bytes of every parameter of a kernel, in order."""

# Attributes of a function, by CUDA's numbers.
_MAX_THREADS, _STATIC_SHARED, _LOCAL, _REGISTERS, _BINARY_VERSION = 0, 1, 3, 4, 6
# Attributes of a kernel node.
_COOPERATIVE, _CLUSTER, _PRIORITY = 2, 4, 8
# CU_LAUNCH_PARAM_*: the list that holds a launch's arguments as one buffer.
_EXTRA_END, _EXTRA_BUFFER, _EXTRA_SIZE = 0, 1, 2
_MEMORY_TYPES = {1: "host", 2: "device", 3: "array", 4: "unified"}
# All of cudaGraphDebugDotPrint's details, node handles among them.
_DOT_VERBOSE = 1


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel node's launch. function is a CUfunction.

    values and extra are addresses, in this process, of what holds the arguments; one of them is 0.
    """

    function: int
    grid: Dim3
    block: Dim3
    shared_bytes: int
    values: int
    extra: int


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a kernel node was launched with beside its sizes; (0, 0, 0) is no cluster."""

    cooperative: int
    cluster: Dim3
    priority: int


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """What the driver knows of a function; binary_version is 90 for sm_90."""

    name: str
    registers: int
    local_bytes: int
    static_shared_bytes: int
    max_threads: int
    binary_version: int
    layout: Layout


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a copy: kind of memory, address of its first byte (0 for an array), pitch."""

    memory: str
    address: int
    pitch_bytes: int


@dataclass(frozen=True, slots=True)
class Copy:
    """A memcpy node: ``depth`` planes of ``height`` rows of ``width_bytes``."""

    source: Side
    target: Side
    width_bytes: int
    height: int
    depth: int


@dataclass(frozen=True, slots=True)
class Fill:
    """A memset node: ``height`` rows of ``width`` elements of ``element_bytes``."""

    address: int
    value: int
    element_bytes: int
    width: int
    height: int
    pitch_bytes: int


# --- kernels -------------------------------------------------------------------------------------


def launch(node: int) -> Launch:
    """Return what a kernel node launches. Raises DriverError for a node of another kind."""
    params = driver_call("cuGraphKernelNodeGetParams", node)
    function = int(params.func)
    if not function:
        function = int(driver_call("cuKernelGetFunction", params.kern))
    return Launch(
        function,
        (params.gridDimX, params.gridDimY, params.gridDimZ),
        (params.blockDimX, params.blockDimY, params.blockDimZ),
        params.sharedMemBytes,
        params.kernelParams,
        params.extra,
    )


def launched(nodes: Iterable[int]) -> Iterator[tuple[int, int, int] | None]:
    """Yield (function, values, extra) of every node's `Launch`, None for one that is no kernel's.

    `launch` of each in a third of the time, for who needs no sizes.
    """
    get = driver_function("cuGraphKernelNodeGetParams")
    for node in nodes:
        status, params = get(node)
        if status != 0:
            yield None
            continue
        function = int(params.func) or int(driver_call("cuKernelGetFunction", params.kern))
        yield function, params.kernelParams, params.extra


def attributes(node: int) -> Attributes:
    """Return how a kernel node is launched; what this driver does not know of reads as 0."""
    cooperative = _attribute(node, _COOPERATIVE)
    cluster = _attribute(node, _CLUSTER)
    priority = _attribute(node, _PRIORITY)
    dims = cluster.clusterDim if cluster is not None else None
    return Attributes(
        int(cooperative.cooperative) if cooperative is not None else 0,
        (int(dims.x), int(dims.y), int(dims.z)) if dims is not None else (0, 0, 0),
        int(priority.priority) if priority is not None else 0,
    )


def _attribute(node: int, number: int) -> Any:
    try:
        return driver_call(
            "cuGraphKernelNodeGetAttribute", node, driver_enum("CUlaunchAttributeID", number)
        )
    except DriverError:
        return None


def function_facts(function: int) -> FunctionFacts:
    """Return what the driver knows of a CUfunction."""
    return FunctionFacts(
        function_name(function),
        _function_attribute(function, _REGISTERS),
        _function_attribute(function, _LOCAL),
        _function_attribute(function, _STATIC_SHARED),
        _function_attribute(function, _MAX_THREADS),
        _function_attribute(function, _BINARY_VERSION),
        layout(function),
    )


def function_name(function: int) -> str:
    """Return the name of a CUfunction, as its compiler mangled it."""
    return str(driver_call("cuFuncGetName", function).decode())


def layout(function: int) -> Layout:
    """Return offset and size of every parameter of a CUfunction."""
    found: list[tuple[int, int]] = []
    # The call that counts them is not in cuda-bindings 12.
    while True:
        try:
            offset, size = driver_call("cuFuncGetParamInfo", function, len(found))
        except DriverError:  # there is no such parameter
            return tuple(found)
        found.append((int(offset), int(size)))


def values(places: int, extra: int, sizes: Layout) -> tuple[bytes, ...]:
    """Return the bytes of every argument of a launch; none where the driver keeps none.

    places and extra are the launch's values and extra.
    """
    if not sizes:
        return ()
    if places:
        addresses = (ctypes.c_uint64 * len(sizes)).from_address(places)
        return tuple(
            ctypes.string_at(address, size)
            for address, (_, size) in zip(addresses, sizes, strict=True)
        )
    if extra:
        buffer = _extra_buffer(extra)
        return tuple(buffer[offset : offset + size] for offset, size in sizes)
    return ()


def _extra_buffer(address: int) -> bytes:
    """Return the arguments that a launch was given as one buffer."""
    buffer = size = 0
    words = ctypes.c_uint64
    while (key := words.from_address(address).value) != _EXTRA_END:
        value = words.from_address(address + 8).value
        if key == _EXTRA_BUFFER:
            buffer = value
        elif key == _EXTRA_SIZE:
            size = words.from_address(value).value
        address += 16
    return ctypes.string_at(buffer, size) if buffer else b""


def blocks_per_multiprocessor(function: int, threads: int, shared_bytes: int) -> int:
    """Return how many blocks of a launch one multiprocessor holds at a time."""
    return int(
        driver_call(
            "cuOccupancyMaxActiveBlocksPerMultiprocessor",
            function,
            threads,
            shared_bytes,
        )
    )


def _function_attribute(function: int, number: int) -> int:
    return int(
        driver_call("cuFuncGetAttribute", driver_enum("CUfunction_attribute", number), function)
    )


# --- memory --------------------------------------------------------------------------------------


def copy(node: int) -> Copy:
    """Return what a memcpy node copies."""
    params = driver_call("cuGraphMemcpyNodeGetParams", node)
    return Copy(
        _side(params, "src"),
        _side(params, "dst"),
        int(params.WidthInBytes),
        int(params.Height),
        int(params.Depth),
    )


def _side(params: Any, side: str) -> Side:
    def of(name: str) -> int:
        return int(getattr(params, side + name))

    memory = _MEMORY_TYPES.get(of("MemoryType"), "unknown")
    pitch, rows = of("Pitch"), of("Height")
    base = {"host": of("Host"), "array": 0}.get(memory, of("Device"))
    start = of("XInBytes") + pitch * (of("Y") + rows * of("Z"))
    return Side(memory, base + start if base else 0, pitch)


def fill(node: int) -> Fill:
    """Return what a memset node fills."""
    params = driver_call("cuGraphMemsetNodeGetParams", node)
    return Fill(
        int(params.dst),
        int(params.value),
        int(params.elementSize),
        int(params.width),
        int(params.height),
        int(params.pitch),
    )


def allocation(node: int) -> tuple[int, int]:
    """Return address and bytes of what a memory allocation node allocates."""
    params = driver_call("cuGraphMemAllocNodeGetParams", node)
    return int(params.dptr), int(params.bytesize)


def freed_address(node: int) -> int:
    """Return the address that a memory free node frees."""
    return int(driver_call("cuGraphMemFreeNodeGetParams", node))


def is_device_memory(address: int) -> bool:
    """Return whether the driver knows ``address`` as memory that a kernel can reach."""
    try:
        memory = driver_call(
            "cuPointerGetAttribute", driver_enum("CUpointer_attribute", 2), address
        )
    except DriverError:
        return False
    return bool(int(memory))


# --- bodies --------------------------------------------------------------------------------------


def child_graph(node: int) -> int:
    """Return the graph inside a child graph node."""
    return int(driver_call("cuGraphChildGraphNodeGetGraph", node))


def conditional_bodies(node: int) -> tuple[str, tuple[int, ...]] | None:
    """Return the kind of a conditional node and its bodies; None where the driver cannot say.

    Drivers before 13.1, and cuda-bindings 12, cannot.
    """
    if not has_driver_call("cuGraphNodeGetParams"):
        return None
    try:
        params = driver_call("cuGraphNodeGetParams", node).conditional
        kind = str(params.type.name).rsplit("_", 1)[-1].lower()
        return kind, tuple(int(graph) for graph in params.phGraph_out)
    except (DriverError, RuntimeError, ValueError, TypeError, AttributeError):
        return None


def dependencies(node: int) -> list[tuple[int, int, int, int]]:
    """Return (node, from_port, to_port, type) of everything that ``node`` depends on."""
    # As for `driver.edges`: the plain call of cuda-bindings 12 knows no ports.
    name = "cuGraphNodeGetDependencies_v2"
    if not has_driver_call(name):
        name = "cuGraphNodeGetDependencies"
    count = driver_call(name, node, 0)[-1]
    if not count:
        return []
    sources, data, count = driver_call(name, node, count)
    return [
        (int(source), int(edge.from_port), int(edge.to_port), int(edge.type))
        for source, edge in list(zip(sources, data, strict=True))[:count]
    ]


def dot(graph: int, flags: Sequence[int] = (_DOT_VERBOSE,)) -> str:
    """Return the driver's own drawing of a graph, with the handles of all nodes, as DOT text."""
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "graph.dot")
    try:
        driver_call("cuGraphDebugDotPrint", graph, path.encode(), sum(flags))
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    finally:
        if os.path.exists(path):
            os.unlink(path)
        os.rmdir(folder)
