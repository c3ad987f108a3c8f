# SPDX-License-Identifier: Apache-2.0
"""The only door to cuda-python.

Handles are plain ints on this side of the door: streams, graphs, executable graphs and nodes.
Nothing is imported before the first call, so that graphrt also imports where there is neither
a driver nor cuda-python. Every failing call raises DriverError with CUDA's name for the error.
What single nodes hold is read in `graphrt.capture.driver_nodes`, through the calls below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, TypeAlias

import torch

from graphrt.errors import DriverError, sentence

Dim3: TypeAlias = tuple[int, int, int]

# Older releases hand out freed memory as edge data.
_FLOORS = {12: (12, 9, 7), 13: (13, 3, 0)}

_FIXES = {
    "cudaErrorInsufficientDriver": "install an NVIDIA driver at least as new as the CUDA runtime",
    "cudaErrorNoDevice": "run where a GPU is visible, or use the CPU default",
    "cudaErrorMemoryAllocation": "free device memory or capture fewer buckets",
    "cudaErrorStreamCaptureUnsupported": "keep this call out of a capture",
    "cudaErrorStreamCaptureInvalidated": "end the capture and begin a new one",
}
_DEFAULT_FIX = "check that what was passed is alive and belongs to this process and device"


@dataclass(frozen=True, slots=True)
class Edge:
    """One dependency of a graph: ``target`` starts after ``source``. Both are node handles.

    from_port and type are CUDA's: (0, 0) is full completion, (1, 1) a programmatic dependency,
    (2, 1) one on launch completion. to_port is 0 in every CUDA released so far.
    """

    source: int
    target: int
    from_port: int
    to_port: int
    type: int

    @property
    def programmatic(self) -> bool:
        """Whether this is a PDL link: the target may start before the source has completed."""
        return self.type == 1


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a kernel node launches: the function's name, blocks in the grid, threads in a block."""

    name: str
    grid: Dim3
    block: Dim3


# --- versions ------------------------------------------------------------------------------------


def bindings_version() -> str:
    """Return the version of cuda-bindings. Raises DriverError where it is not installed."""
    try:
        return str(import_module("cuda.bindings").__version__)
    except ImportError as error:
        raise DriverError(
            sentence(
                "cuda-bindings",
                "not installed",
                "graphs are launched through cuda-python",
                "pip install 'cuda-bindings>=13.3' ('cuda-bindings~=12.9.7' on CUDA 12)",
            )
        ) from error


def runtime_version() -> tuple[int, int]:
    """Return (major, minor) of the CUDA runtime inside cuda-bindings; needs no driver."""
    return _version(runtime_call("cudaRuntimeGetVersion"))


def driver_version() -> tuple[int, int] | None:
    """Return (major, minor) of the CUDA that the installed driver supports; None without one."""
    number = runtime_call("cudaDriverGetVersion")
    return _version(number) if number else None


def _version(number: int) -> tuple[int, int]:
    return number // 1000, number % 1000 // 10


def check_bindings(version: str) -> None:
    """Raise DriverError if this version of cuda-bindings is older than the oldest that serves."""
    parts = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    # A major version that is not listed yet is judged by the newest one known.
    floor = _FLOORS.get(parts[0], _FLOORS[13])
    if parts < floor:
        raise DriverError(
            sentence(
                "cuda-bindings",
                version,
                "must be ≥ 13.3.0, or ≥ 12.9.7 on CUDA 12; older ones return freed memory "
                "as edge data",
                "pip install --upgrade cuda-bindings",
            )
        )


# --- graphs --------------------------------------------------------------------------------------


def instantiate(graph: int) -> int:
    """Make an executable graph and return its handle; the caller destroys it."""
    return int(runtime_call("cudaGraphInstantiate", graph, 0))


def create_graph() -> int:
    """Make an empty graph and return its handle; the caller destroys it."""
    return int(runtime_call("cudaGraphCreate", 0))


def destroy_graph(graph: int) -> None:
    """Destroy a graph that this process made itself."""
    runtime_call("cudaGraphDestroy", graph)


def add_child_graph(graph: int, child: int) -> None:
    """Add a node to ``graph`` that runs a copy of ``child``, after nothing."""
    runtime_call("cudaGraphAddChildGraphNode", graph, None, 0, child)


def upload(executable: int, stream: int) -> None:
    """Copy an executable graph to the device in ``stream``, so that the first launch need not."""
    runtime_call("cudaGraphUpload", executable, stream)


def destroy(executable: int) -> None:
    """Destroy an executable graph; launches in flight finish first, on the device."""
    runtime_call("cudaGraphExecDestroy", executable)


def launcher(executable: int, device_index: int) -> Callable[[], None]:
    """Return the cheapest call that launches ``executable``.

    It launches on the stream that is PyTorch's current one for the device at the time of the
    call, and returns without waiting. It raises DriverError if the launch is refused. It must not
    be called after ``destroy``: that is the caller's to prevent.
    """
    runtime = _runtime()
    graph_launch = runtime.cudaGraphLaunch
    success = runtime.cudaError_t.cudaSuccess
    handle = runtime.cudaGraphExec_t(executable)
    new_stream = runtime.cudaStream_t
    streams: dict[int, Any] = {}

    def launch() -> None:
        raw = current_stream(device_index)
        try:
            stream = streams[raw]
        except KeyError:
            stream = streams[raw] = new_stream(raw)
        status = graph_launch(handle, stream)[0]
        if status is not success:
            raise _runtime_error("cudaGraphLaunch", status)

    def launch_on_device() -> None:
        if torch.cuda.current_device() == device_index:
            launch()
        else:
            with torch.cuda.device(device_index):
                launch()

    # Handle 0, the default stream, means that of whichever device is current.
    return launch if torch.cuda.device_count() <= 1 else launch_on_device


def _current_stream(device_index: int) -> int:
    return int(torch.cuda.current_stream(device_index).cuda_stream)


# PyTorch's own code generator calls the private function, for the same reason: it makes no object.
current_stream: Callable[[int], int] = getattr(
    torch._C, "_cuda_getCurrentRawStream", _current_stream
)


def fill_memory(address: int, byte: int, nbytes: int, stream: int) -> None:
    """Set ``nbytes`` of device memory to ``byte``, in order on ``stream``, without waiting."""
    runtime_call("cudaMemsetAsync", address, byte, nbytes, stream)


# --- capturing -----------------------------------------------------------------------------------


def is_capturing(stream: int) -> bool:
    """Return whether ``stream`` is in a capture that is still valid."""
    return _capture_status(stream) == 1


def begin_capture(stream: int) -> None:
    """Begin a capture on ``stream`` that minds only calls of this thread."""
    mode = _runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    runtime_call("cudaStreamBeginCapture", stream, mode)


def drop_capture(stream: int) -> None:
    """End the capture on ``stream``, valid or not, and destroy what it made; none is fine."""
    if _capture_status(stream) == 0:
        return
    status, graph = _runtime().cudaStreamEndCapture(stream)
    if status == 0 and int(graph):
        runtime_call("cudaGraphDestroy", graph)


@contextmanager
def relaxed_capture() -> Iterator[None]:
    """Let calls of this thread that would invalidate a capture under way pass, where they can."""
    mode = _runtime().cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
    before = runtime_call("cudaThreadExchangeStreamCaptureMode", mode)
    try:
        yield
    finally:
        runtime_call("cudaThreadExchangeStreamCaptureMode", before)


def _capture_status(stream: int) -> int:
    return int(runtime_call("cudaStreamIsCapturing", stream))


# --- reading -------------------------------------------------------------------------------------


def nodes(graph: int) -> list[int]:
    """Return the handles of the graph's own nodes; bodies of child graphs are not entered."""
    _, count = runtime_call("cudaGraphGetNodes", graph, 0)
    if not count:
        return []
    handles, count = runtime_call("cudaGraphGetNodes", graph, count)
    return [int(node) for node in handles[:count]]


def edges(graph: int) -> list[Edge]:
    """Return every edge of the graph with its ports and type."""
    return [
        Edge(int(source), int(target), int(edge.from_port), int(edge.to_port), int(edge.type))
        for source, target, edge in _raw_edges(graph)
    ]


def edge_types(graph: int) -> list[tuple[int, int, int]]:
    """Return (source, target, type) of every edge: `edges`, in a fifth of the time."""
    return [
        (int(source), int(target), int(data.type)) for source, target, data in _raw_edges(graph)
    ]


def _raw_edges(graph: int) -> list[tuple[Any, Any, Any]]:
    # cuda-bindings 12 answers an error from the plain call when an edge is programmatic.
    name = "cudaGraphGetEdges_v2"
    if not hasattr(_runtime(), name):
        name = "cudaGraphGetEdges"
    count = runtime_call(name, graph, 0)[-1]
    if not count:
        return []
    sources, targets, data, count = runtime_call(name, graph, count)
    return list(zip(sources, targets, data, strict=True))[:count]


def node_type(node: int) -> str:
    """Return the kind of a node: ``kernel``, ``memcpy``, ``child_graph``, ``mem_alloc`` …"""
    return _type_name(runtime_call("cudaGraphNodeGetType", node).name)


def _type_name(enum_name: str) -> str:
    stem = enum_name.removeprefix("cudaGraphNodeType")
    return "child_graph" if stem == "Graph" else re.sub(r"(?<!^)(?=[A-Z])", "_", stem).lower()


def kernel(node: int) -> Kernel:
    """Return what a kernel node launches. Raises DriverError for a node of another kind."""
    # The runtime's cudaGraphKernelNodeGetParams refuses kernels loaded through the driver, as
    # Triton's are.
    params = driver_call("cuGraphKernelNodeGetParams", node)
    if int(params.func):
        name = driver_call("cuFuncGetName", params.func)
    else:
        name = driver_call("cuKernelGetName", params.kern)
    return Kernel(
        name.decode(),
        (int(params.gridDimX), int(params.gridDimY), int(params.gridDimZ)),
        (int(params.blockDimX), int(params.blockDimY), int(params.blockDimZ)),
    )


# --- calls ---------------------------------------------------------------------------------------


@cache
def _runtime() -> Any:
    check_bindings(bindings_version())
    return import_module("cuda.bindings.runtime")


@cache
def _driver() -> Any:
    check_bindings(bindings_version())
    return import_module("cuda.bindings.driver")


def runtime_call(name: str, *args: Any) -> Any:
    """Call one runtime function and return its output, or a tuple of several."""
    status, *outputs = getattr(_runtime(), name)(*args)
    # On failure every output is None, so nothing else may be looked at first.
    if status != 0:
        raise _runtime_error(name, status)
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def driver_call(name: str, *args: Any) -> Any:
    """Call one driver function and return its output, or a tuple of several."""
    driver = _driver()
    try:
        status, *outputs = getattr(driver, name)(*args)
    except RuntimeError as error:  # libcuda itself is missing
        raise DriverError(
            sentence(name, "no driver", str(error), _FIXES["cudaErrorInsufficientDriver"])
        ) from error
    if status != 0:
        _, error_name = driver.cuGetErrorName(status)
        _, text = driver.cuGetErrorString(status)
        raise _error(name, status, error_name, text)
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def driver_function(name: str) -> Any:
    """Return a driver function itself, for many calls: it returns a status, then its outputs."""
    return getattr(_driver(), name)


def has_driver_call(name: str) -> bool:
    """Return whether the installed cuda-bindings have this driver function; the driver may not."""
    return hasattr(_driver(), name)


def driver_enum(kind: str, number: int) -> Any:
    """Return a member of one of the driver's enumerations by its number."""
    return getattr(_driver(), kind)(number)


def _runtime_error(name: str, status: Any) -> DriverError:
    _, error_name = _runtime().cudaGetErrorName(status)
    _, text = _runtime().cudaGetErrorString(status)
    return _error(name, status, error_name, text)


def _error(call: str, status: Any, name: bytes | None, text: bytes | None) -> DriverError:
    # Both are None for a status that the driver knows and the bindings do not.
    label = name.decode() if name else f"error {int(status)}"
    reason = text.decode() if text else "CUDA has no text for it"
    return DriverError(sentence(call, label, reason, _FIXES.get(label, _DEFAULT_FIX)))
