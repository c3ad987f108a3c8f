# SPDX-License-Identifier: Apache-2.0
"""The door to cuda-python, as far as it opens without a driver."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from graphrt.capture import driver
from graphrt.capture.driver import Edge, Kernel
from graphrt.errors import DriverError

runtime = pytest.importorskip("cuda.bindings.runtime")
SUCCESS = runtime.cudaError_t.cudaSuccess
REFUSED = runtime.cudaError_t.cudaErrorInvalidValue

without_driver = pytest.mark.skipif(
    driver.driver_version() is not None, reason="there is a driver, the calls would succeed"
)


@pytest.mark.parametrize("version", ["12.9.7", "12.9.10", "12.10.0", "13.3.0", "13.4.4", "14.0.0"])
def test_bindings_that_serve(version: str) -> None:
    driver.check_bindings(version)


@pytest.mark.parametrize("version", ["11.8.7", "12.8.0", "12.9.6", "13.0.3", "13.2.9", "13.0"])
def test_bindings_that_are_too_old(version: str) -> None:
    with pytest.raises(DriverError, match=f"^cuda-bindings={version}: must be ≥ 13.3.0, or ≥ 12.9"):
        driver.check_bindings(version)


def test_the_floor_is_checked_before_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "bindings_version", lambda: "13.0.3")
    for load in (driver._runtime, driver._driver):
        load.cache_clear()
        try:
            with pytest.raises(DriverError, match=r"^cuda-bindings=13\.0\.3"):
                load()
        finally:
            load.cache_clear()


def test_what_is_installed_serves_and_says_its_versions() -> None:
    driver.check_bindings(driver.bindings_version())
    major, minor = driver.runtime_version()
    assert major == int(driver.bindings_version().split(".")[0])
    assert 0 <= minor < 100


def test_capture_imports_without_cuda_python() -> None:
    code = """
import sys
sys.modules["cuda"] = sys.modules["cuda.bindings"] = None
import graphrt.capture
from graphrt.capture import driver
try:
    driver.instantiate(0)
except driver.DriverError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cuda-bindings=not installed: graphs are launched through")


@without_driver
@pytest.mark.parametrize(
    ("call", "args", "name"),
    [
        (driver.instantiate, (0,), "cudaGraphInstantiate"),
        (driver.upload, (1, 0), "cudaGraphUpload"),
        (driver.is_capturing, (0,), "cudaStreamIsCapturing"),
        (driver.begin_capture, (0,), "cudaStreamBeginCapture"),
        (driver.nodes, (1,), "cudaGraphGetNodes"),
        (driver.edges, (1,), "cudaGraphGetEdges"),
        (driver.node_type, (1,), "cudaGraphNodeGetType"),
    ],
)
def test_a_failing_call_is_named_with_the_reason(call: Any, args: Any, name: str) -> None:
    pattern = rf"^{name}(_v2)?=cudaErrorInsufficientDriver: CUDA driver version .+; install an NV"
    with pytest.raises(DriverError, match=pattern):
        call(*args)


@without_driver
def test_a_missing_driver_library_is_named_too() -> None:
    with pytest.raises(DriverError, match=r"^cuGraphKernelNodeGetParams=no driver: .+; install"):
        driver.kernel(1)


@without_driver
def test_no_driver_has_no_version() -> None:
    assert driver.driver_version() is None


def test_a_status_without_a_name_still_makes_a_sentence() -> None:
    assert str(driver._error("cudaFree", 12345, None, None)).startswith(
        "cudaFree=error 12345: CUDA has no text for it; check that"
    )


@pytest.mark.parametrize(
    ("enum", "name"),
    [
        ("cudaGraphNodeTypeKernel", "kernel"),
        ("cudaGraphNodeTypeMemcpy", "memcpy"),
        ("cudaGraphNodeTypeGraph", "child_graph"),
        ("cudaGraphNodeTypeMemAlloc", "mem_alloc"),
        ("cudaGraphNodeTypeExtSemaphoreSignal", "ext_semaphore_signal"),
        ("cudaGraphNodeTypeConditional", "conditional"),
    ],
)
def test_node_types_have_plain_names(enum: str, name: str) -> None:
    assert enum in runtime.cudaGraphNodeType.__members__
    assert driver._type_name(enum) == name


# --- answers of a driver, in the shapes of both generations of cuda-bindings ----------------------


def edge_data(from_port: int, type_: int) -> Any:
    data = runtime.cudaGraphEdgeData()
    data.from_port = from_port
    data.type = runtime.cudaGraphDependencyType(type_)
    return data


def answers(sources: list[int], targets: list[int], data: list[Any]) -> Any:
    """Return an edge query of two passes: how many, then which."""

    def query(graph: int, count: int) -> Any:
        if not count:
            return SUCCESS, [], [], [], len(sources)
        nodes = [[runtime.cudaGraphNode_t(node) for node in side] for side in (sources, targets)]
        return SUCCESS, *nodes, data, len(sources)

    return query


def lossy(graph: int, count: int) -> Any:
    return runtime.cudaError_t.cudaErrorLossyQuery, None, None, None


@pytest.mark.parametrize("generation", [12, 13])
def test_edges_are_read_with_ports_and_type(
    generation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = answers([7, 8, 7], [8, 9, 9], [edge_data(1, 1), edge_data(2, 1), edge_data(0, 0)])
    calls = {"cudaGraphGetEdges_v2": query, "cudaGraphGetEdges": lossy}
    if generation == 13:
        calls = {"cudaGraphGetEdges": query}
    monkeypatch.setattr(driver, "_runtime", lambda: SimpleNamespace(**calls))
    edges = driver.edges(1)
    assert edges == [Edge(7, 8, 1, 0, 1), Edge(8, 9, 2, 0, 1), Edge(7, 9, 0, 0, 0)]
    assert [edge.programmatic for edge in edges] == [True, True, False]


def test_a_graph_without_edges_or_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {
        "cudaGraphGetEdges": answers([], [], []),
        "cudaGraphGetNodes": lambda graph, count: (SUCCESS, [], 0),
    }
    monkeypatch.setattr(driver, "_runtime", lambda: SimpleNamespace(**calls))
    assert driver.edges(1) == []
    assert driver.nodes(1) == []


def test_nodes_are_ints(monkeypatch: pytest.MonkeyPatch) -> None:
    def query(graph: int, count: int) -> Any:
        return SUCCESS, [runtime.cudaGraphNode_t(5 + i) for i in range(count)], 3

    monkeypatch.setattr(driver, "_runtime", lambda: SimpleNamespace(cudaGraphGetNodes=query))
    assert driver.nodes(1) == [5, 6, 7]


@pytest.mark.parametrize(("func", "kern"), [(11, 0), (0, 12)], ids=["function", "library kernel"])
def test_a_kernel_is_named_by_function_or_by_library_kernel(
    func: int, kern: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SimpleNamespace(
        func=func,
        kern=kern,
        gridDimX=4,
        gridDimY=2,
        gridDimZ=1,
        blockDimX=128,
        blockDimY=1,
        blockDimZ=1,
    )
    fake = SimpleNamespace(
        cuGraphKernelNodeGetParams=lambda node: (0, params),
        cuFuncGetName=lambda handle: (0, f"function {handle}".encode()),
        cuKernelGetName=lambda handle: (0, f"kernel {handle}".encode()),
    )
    monkeypatch.setattr(driver, "_driver", lambda: fake)
    name = "function 11" if func else "kernel 12"
    assert driver.kernel(1) == Kernel(name, (4, 2, 1), (128, 1, 1))


# --- launching -----------------------------------------------------------------------------------


class FakeRuntime(SimpleNamespace):
    """cudaGraphLaunch that remembers, among real handle types and error names."""

    def __init__(self, status: Any = SUCCESS) -> None:
        self.status = status
        self.launches: list[tuple[int, int]] = []
        self.streams_made = 0
        super().__init__(
            cudaError_t=runtime.cudaError_t,
            cudaGraphExec_t=runtime.cudaGraphExec_t,
            cudaGetErrorName=runtime.cudaGetErrorName,
            cudaGetErrorString=runtime.cudaGetErrorString,
        )

    def cudaStream_t(self, raw: int) -> Any:
        self.streams_made += 1
        return runtime.cudaStream_t(raw)

    def cudaGraphLaunch(self, executable: Any, stream: Any) -> Any:
        self.launches.append((int(executable), int(stream)))
        return (self.status,)


def fake_launcher(
    monkeypatch: pytest.MonkeyPatch, fake: FakeRuntime, streams: list[int], devices: int = 1
) -> Any:
    monkeypatch.setattr(driver, "_runtime", lambda: fake)
    monkeypatch.setattr(driver, "current_stream", lambda index: streams.pop(0) + index)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    return driver.launcher(77, 1)


def test_every_launch_goes_to_the_stream_that_is_current_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeRuntime()
    launch = fake_launcher(monkeypatch, fake, [10, 20, 10, 10, 20])
    for _ in range(5):
        launch()
    assert fake.launches == [(77, 11), (77, 21), (77, 11), (77, 11), (77, 21)]
    assert fake.streams_made == 2


def test_a_refused_launch_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = fake_launcher(monkeypatch, FakeRuntime(REFUSED), [10])
    with pytest.raises(DriverError, match=r"^cudaGraphLaunch=cudaErrorInvalidValue: invalid arg"):
        launch()


@pytest.mark.parametrize("current", [0, 1])
def test_with_several_devices_the_graphs_own_is_current(
    current: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    switched: list[int] = []

    class Device:
        def __init__(self, index: int) -> None:
            switched.append(index)

        def __enter__(self) -> None:
            pass

        def __exit__(self, *error: object) -> None:
            pass

    fake = FakeRuntime()
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "device", Device)
    fake_launcher(monkeypatch, fake, [10], devices=2)()
    assert fake.launches == [(77, 11)]
    assert switched == ([] if current == 1 else [1])
