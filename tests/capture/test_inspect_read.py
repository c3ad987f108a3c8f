# SPDX-License-Identifier: Apache-2.0
"""Reading a graph back, from a driver whose graphs are made by hand."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from graphrt.capture.inspect import handles
from graphrt.capture.inspect.manifest import Manifest, Role
from graphrt.capture.inspect.read import inspect_graph
from graphrt.capture.inspect.report import Edge, PointsTo
from graphrt.errors import CaptureError, DriverError
from tests.capture.fake_nodes import FakeDriver, FakeEnum, compiled

PDL = (1, 1)
FULL = (0, 0)


@pytest.fixture(params=[13, 12], ids=["bindings 13", "bindings 12"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    fake.generation = request.param
    fake.install(monkeypatch)
    return fake


def test_a_triton_kernel_is_read_with_names_values_and_hidden_arguments(fake: FakeDriver) -> None:
    x = torch.zeros(64)
    function = fake.function("scale", 8, 4, 4, 8, 8, registers=40)
    graph = fake.graph()
    fake.kernel(graph, function, x.data_ptr() + 16, 64, 7, 0, 0, grid=(2, 3, 1), shared=1024)
    kernel = compiled(
        function,
        "scale",
        constants={(3,): 128},
        x_ptr="*fp32",
        count="i32",
        factor="fp32",
        BLOCK="constexpr",
    )
    manifest = Manifest()
    manifest.declare("x", x, Role.INPUT)
    report = inspect_graph(graph.handle, manifest, kernels=[kernel])

    (node,) = report.bodies[0].nodes
    assert node.kernel is not None
    assert (node.kernel.grid, node.kernel.shared_bytes) == ((2, 3, 1), 1024)
    assert node.kernel.occupancy == 4 * 4 * 32 / 2048
    (scale,) = report.functions
    assert [p.name for p in scale.parameters] == [
        "x_ptr", "count", "factor", "global_scratch", "profile_scratch"
    ]  # fmt: skip
    assert [p.hidden for p in scale.parameters] == [False] * 3 + [True] * 2
    assert scale.constexprs == {"BLOCK": "128"}
    assert scale.registers == 40
    pointer = node.kernel.arguments[0].pointers[0]
    assert (pointer.to, pointer.buffer, pointer.offset_bytes) == (PointsTo.BUFFER, "x", 16)
    assert [a.number for a in node.kernel.arguments[1:3]] == [64, 7]
    assert node.kernel.arguments[3].pointers[0].to is PointsTo.NULL
    assert report.findings == ()


@pytest.mark.parametrize("buffer", [False, True], ids=["pointers", "one buffer"])
@pytest.mark.parametrize("library", [False, True], ids=["function", "library kernel"])
def test_a_foreign_kernel_has_addresses_found_inside_its_structures(
    fake: FakeDriver, buffer: bool, library: bool
) -> None:
    weight = torch.zeros(64)
    function = fake.function("gemm", 32, 4)
    graph = fake.graph()
    structure = (5).to_bytes(8, "little") + (weight.data_ptr() + 4).to_bytes(8, "little")
    structure += (12345678901).to_bytes(8, "little") + bytes(8)
    fake.kernel(graph, function, structure, 9, buffer=buffer, library=library)
    manifest = Manifest()
    manifest.declare("weight", weight)
    report = inspect_graph(graph.handle, manifest)
    (node,) = report.bodies[0].nodes
    assert node.kernel is not None
    (pointer,) = node.kernel.arguments[0].pointers
    assert (pointer.at, str(pointer)) == (8, "weight + 4")
    assert node.kernel.arguments[1].pointers == ()
    assert node.kernel.arguments[1].number == 9


def test_edges_keep_ports_and_type(fake: FakeDriver) -> None:
    function = fake.function("k")
    graph = fake.graph()
    first = fake.kernel(graph, function)
    second = fake.kernel(graph, function, after=[(first, *PDL)])
    fake.kernel(graph, function, after=[(second, *FULL), (first, 2, 1)])
    report = inspect_graph(graph.handle)
    assert report.bodies[0].edges == (
        Edge(0, 1, 1, 0, 1), Edge(0, 2, 2, 0, 1), Edge(1, 2, 0, 0, 0)
    )  # fmt: skip


def side(address: int, memory: int, prefix: str) -> dict[str, int]:
    return {
        f"{prefix}MemoryType": memory,
        f"{prefix}Device": address if memory == 2 else 0,
        f"{prefix}Host": address if memory == 1 else 0,
        f"{prefix}Pitch": 0,
        f"{prefix}Height": 0,
        f"{prefix}XInBytes": 4,
        f"{prefix}Y": 0,
        f"{prefix}Z": 0,
    }


def test_copies_fills_and_allocations_show_their_sides(fake: FakeDriver) -> None:
    a, b = torch.zeros(64), torch.zeros(64)
    graph = fake.graph()
    fake.node(
        graph,
        "Memcpy",
        SimpleNamespace(
            **side(a.data_ptr(), 1, "src"),
            **side(b.data_ptr(), 2, "dst"),
            WidthInBytes=16,
            Height=1,
            Depth=1,
        ),
    )
    fill = SimpleNamespace(dst=b.data_ptr(), value=0, elementSize=4, width=8, height=1, pitch=0)
    fake.node(graph, "Memset", fill)
    fake.node(graph, "MemAlloc", SimpleNamespace(dptr=0x7F0000000000, bytesize=512))
    fake.node(graph, "MemFree", 0x7F0000000000)
    fake.node(graph, "Empty", None)
    manifest = Manifest()
    manifest.declare_all({"a": a, "b": b})
    copy, fill_, alloc, free, empty = inspect_graph(graph.handle, manifest).bodies[0].nodes
    assert copy.copy is not None
    assert (copy.copy.source.memory, str(copy.copy.source.pointer)) == ("host", "a + 4")
    assert (copy.copy.target.memory, str(copy.copy.target.pointer)) == ("device", "b + 4")
    assert fill_.fill is not None and str(fill_.fill.target.pointer) == "b + 0"
    assert (alloc.kind, alloc.note) == ("mem_alloc", "512 bytes")
    assert (free.kind, empty.kind) == ("mem_free", "empty")


def nested(fake: FakeDriver) -> tuple[int, int, list[int]]:
    """Return a graph whose WHILE node holds two kernels, the node, and the body."""
    function = fake.function("k")
    body, graph = fake.graph(), fake.graph()
    first = fake.kernel(body, function)
    fake.kernel(body, function, after=[(first, *PDL)])
    fake.kernel(graph, function)
    node = fake.node(graph, "Conditional", [body.handle])
    return graph.handle, node, body.nodes


def test_a_child_graph_is_entered(fake: FakeDriver) -> None:
    function = fake.function("k")
    child, graph = fake.graph(), fake.graph()
    fake.kernel(child, function)
    fake.node(graph, "Graph", child.handle)
    report = inspect_graph(graph.handle, name="outer")
    assert [body.name for body in report.bodies] == ["outer", "outer/0"]
    assert report.bodies[0].nodes[0].bodies == (1,)
    assert report.title(report.bodies[1].nodes[0]) == "k"


def test_the_body_of_a_conditional_node_comes_from_the_driver(fake: FakeDriver) -> None:
    graph, _, _ = nested(fake)
    report = inspect_graph(graph)
    assert [len(body.nodes) for body in report.bodies] == [2, 2]
    assert report.bodies[0].nodes[1].note == "while"
    assert report.bodies[1].edges == (Edge(0, 1, 1, 0, 1),)


def test_or_from_its_drawing(fake: FakeDriver) -> None:
    fake.tells_bodies = False
    graph, _, inside = nested(fake)
    outside = fake.graphs[graph].nodes
    lines = ["digraph dot {"]
    for number, nodes in ((1, outside), (2, inside)):
        lines.append(f'subgraph cluster_{number} {{\nlabel="graph_{number}"')
        lines += [
            f'"graph_{number}_node_{i}"[style="bold" label="{{KERNEL\n'
            f'| {{{{node handle | func handle}} | {{0x{n:016X} | 0x0}}}}\n}}"];'
            for i, n in enumerate(nodes)
        ]
    fake.drawing = "\n".join(lines)
    report = inspect_graph(graph)
    assert [len(body.nodes) for body in report.bodies] == [2, 2]
    assert report.bodies[1].edges == (Edge(0, 1, 1, 0, 1),)


def test_or_from_the_caller(fake: FakeDriver) -> None:
    fake.tells_bodies = False
    graph, node, _ = nested(fake)
    body = next(h for h in fake.graphs if h != graph)
    report = inspect_graph(graph, bodies={node: [body]})
    assert [len(found.nodes) for found in report.bodies] == [2, 2]


def test_or_is_said_to_be_missing(fake: FakeDriver) -> None:
    fake.tells_bodies = False
    graph, _, _ = nested(fake)
    assert "not shown" in inspect_graph(graph).bodies[0].nodes[1].note


# --- stale pointers ------------------------------------------------------------------------------


def stale_scene(fake: FakeDriver, model: nn.Linear) -> tuple[int, Manifest]:
    function = fake.function("linear", 8, 8)
    graph = fake.graph()
    fake.kernel(graph, function, model.weight.data_ptr(), model.bias.data_ptr())
    manifest = Manifest()
    manifest.declare_module(model)
    return graph.handle, manifest


@pytest.mark.parametrize("change", ["replaced", "swapped", "freed", "none"])
def test_a_stale_weight_is_named_with_node_and_argument(fake: FakeDriver, change: str) -> None:
    model = nn.Linear(8, 8)
    graph, manifest = stale_scene(fake, model)
    old = None
    if change == "replaced":
        old = model.weight
        model.weight = nn.Parameter(torch.zeros(8, 8))
    elif change == "swapped":
        old = model.weight.data
        model.weight.data = torch.zeros(8, 8)
    elif change == "freed":
        model.weight = None
    gc.collect()
    report = inspect_graph(graph, manifest)
    if change == "none":
        assert report.errors == ()
        return
    (finding,) = report.errors
    assert (finding.buffer, finding.node, finding.argument) == ("weight", 0, "argument 0")
    assert ("freed" if change == "freed" else "moved") in finding.rule
    assert finding.sentence.startswith("linear, node 0: argument 0 points at 0x")
    status = {b.name: b.status for b in report.buffers}
    assert status == {"weight": "freed" if change == "freed" else "moved", "bias": "live"}
    del old


def test_what_lies_there_now_is_said(fake: FakeDriver) -> None:
    x = torch.zeros(64)
    function = fake.function("k", 8)
    graph = fake.graph()
    fake.kernel(graph, function, x.data_ptr())
    manifest = Manifest()
    storage = x.untyped_storage()
    manifest.declare("x", x)
    manifest.declare("taker", torch.empty(0).set_(storage, 0, (64,)))
    x.data = torch.zeros(64)
    (finding,) = inspect_graph(graph.handle, manifest).errors
    assert "where taker lies now" in finding.sentence


def test_a_typed_pointer_into_nothing_known_is_an_error(fake: FakeDriver) -> None:
    function = fake.function("k", 8)
    graph = fake.graph()
    fake.kernel(graph, function, 0x7F0000001000)
    fake.kernel(graph, function, 0x7F0000002000)
    fake.device_memory = [range(0x7F0000002000, 0x7F0000003000)]
    report = inspect_graph(graph.handle, kernels=[compiled(function, "k", x_ptr="*fp32")])
    (finding,) = report.errors
    assert (finding.argument, finding.rule) == ("x_ptr", "pointer to unknown memory")
    to = [n.kernel.arguments[0].pointers[0].to for n in report.bodies[0].nodes if n.kernel]
    assert to == [PointsTo.UNKNOWN, PointsTo.DEVICE]


# --- what is no graph ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handle", "message"),
    [
        (0, "graph=0: is no handle"),
        (-5, "graph=-5: is no handle"),
        (1 << 70, "is no handle"),
        (0xDEAD, "graph=0xdead: points at no memory of this process"),
        ("graph", "graph=str: must be a captured graph"),
        (True, "must be a captured graph|is no handle|points at no memory"),
    ],
)
def test_a_wrong_handle_is_a_sentence_and_no_crash(
    fake: FakeDriver, handle: object, message: str
) -> None:
    with pytest.raises(CaptureError, match=message):
        inspect_graph(handle)
    assert fake.calls == 0


def test_memory_that_is_no_graph_is_told_by_its_head(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphrt.capture.inspect import handles

    monkeypatch.setattr(handles, "signature", lambda: ((0, 0x1234),))
    graph = fake.graph()
    with pytest.raises(CaptureError, match="something else than a graph"):
        inspect_graph(graph.handle)
    graph.memory.raw = (0x1234).to_bytes(8, "little") + bytes(248)
    assert inspect_graph(graph.handle).bodies[0].nodes == ()


def test_the_signature_is_what_two_graphs_share_of_libcuda() -> None:
    from graphrt.capture.inspect.handles import common_words

    library = [range(0x7000, 0x8000)]
    first = [0x7010, 0x9000, 0x7020, 5]
    second = [0x7010, 0x9000, 0x7030, 5]
    assert list(common_words(first, second, library)) == [(0, 0x7010)]


def test_a_recorded_graph_says_what_it_needs() -> None:
    from graphrt.capture.graph import RecordedGraph

    graph = RecordedGraph("toy")
    graph.capture(lambda: None)
    with pytest.raises(CaptureError, match="toy=captured: recorded calls are Python"):
        inspect_graph(graph)
    graph.close()
    with pytest.raises(CaptureError, match="toy=closed: a closed graph has nothing to read"):
        inspect_graph(graph)


def test_a_driver_that_refuses_is_an_error(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphrt.capture import driver

    graph = fake.graph()

    def refuse(graph: int, count: int) -> tuple[int, None, None]:
        return 400, None, None

    runtime = driver._runtime()
    monkeypatch.setattr(runtime, "cudaGraphGetNodes", refuse)
    runtime.cudaGetErrorName = lambda status: (0, b"cudaErrorInvalidResourceHandle")
    runtime.cudaGetErrorString = lambda status: (0, b"invalid resource handle")
    with pytest.raises(DriverError, match="cudaErrorInvalidResourceHandle"):
        inspect_graph(graph.handle)


def test_enums_of_the_fake_have_names() -> None:
    assert FakeEnum(1).name.endswith("WHILE")


def test_memory_without_rights_is_not_memory() -> None:
    # Where device memory has its addresses: /proc/self/mem reads it, libcuda would crash there.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    nothing = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = libc.mmap(None, mmap.PAGESIZE, 0, nothing, -1, 0)
    assert address not in (None, ctypes.c_void_p(-1).value)
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            assert os.pread(memory.fileno(), 8, address) == bytes(8)
        assert handles.read_words(address) is None
    finally:
        libc.munmap(address, mmap.PAGESIZE)


def test_words_are_read_where_they_are() -> None:
    words = (ctypes.c_uint64 * 4)(1, 2, 3, 4)
    assert handles.read_words(ctypes.addressof(words), 4) == [1, 2, 3, 4]
