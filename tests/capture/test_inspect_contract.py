# SPDX-License-Identifier: Apache-2.0
"""What a captured graph must look like, checked over a driver whose graphs are made by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from graphrt.capture.inspect import contract as contract_module
from graphrt.capture.inspect.contract import (
    ALLOCATIONS,
    COPIES,
    GraphContract,
    check_contract,
    violations,
)
from graphrt.capture.inspect.manifest import Manifest
from graphrt.capture.inspect.report import PointsTo
from graphrt.errors import ContractError
from tests.capture.fake_nodes import FakeDriver, compiled

LAYERS = 3
STATED = GraphContract(
    {"advance": 1, "conv": LAYERS, "update": LAYERS}, only=True, forbidden=ALLOCATIONS | COPIES
)


class Scene:
    """advance, then conv and a linked update a layer, over one declared tensor."""

    def __init__(self, fake: FakeDriver) -> None:
        self.fake = fake
        self.x = torch.zeros(256)
        self.functions = {
            "advance": fake.function("advance", 8, 8, 8),
            "conv": fake.function("conv", 8, 4, 8, 8, 8),
            "update": fake.function("update", 4, 8, 8, 8),
        }
        self.kernels = [
            compiled(self.functions["advance"], "advance", a_ptr="*i32"),
            compiled(self.functions["conv"], "conv", x_ptr="*bf16", n="i32", y_ptr="*bf16"),
            compiled(self.functions["update"], "update", pdl=True, n="i32", x_ptr="*bf16"),
        ]
        self.graph = fake.graph()
        self.last: int | None = None
        self.add("advance", self.x.data_ptr(), 0, 0)
        for _ in range(LAYERS):
            self.layer()

    def add(self, name: str, *values: int, type_: int = 0) -> None:
        after = [(self.last, type_, type_)] if self.last is not None else []
        self.last = self.fake.kernel(self.graph, self.functions[name], *values, after=after)

    def layer(self, x: Tensor | None = None, y: int | None = None, type_: int = 1) -> None:
        address = (self.x if x is None else x).data_ptr()
        self.add("conv", address, 7, address + 64 if y is None else y, 0, 0)
        self.add("update", 7, address, 0, 0, type_=type_)

    def found(self, contract: GraphContract = STATED) -> list[str]:
        manifest = Manifest()
        manifest.declare("x", self.x)
        return violations(self.captured(), contract, self.kernels, manifest.buffers())

    def captured(self) -> Any:
        pool = SimpleNamespace(pool=lambda: (0, 7))
        return SimpleNamespace(name="toy", raw_graph=self.graph.handle, torch_graph=pool)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    fake = FakeDriver()
    fake.install(monkeypatch)
    return Scene(fake)


def test_a_graph_as_stated_has_no_violations(scene: Scene) -> None:
    assert scene.found() == []
    check_contract(scene.captured(), STATED, scene.kernels, _declared(scene.x))


def _declared(x: Tensor) -> Any:
    manifest = Manifest()
    manifest.declare("x", x)
    return manifest.buffers()


def test_a_layer_too_many(scene: Scene) -> None:
    scene.layer()
    assert scene.found() == ["4 nodes of conv, must be 3", "4 nodes of update, must be 3"]


def test_variants_of_one_kernel_count_together(scene: Scene) -> None:
    other = scene.fake.function("conv", 8, 4, 8, 8, 8)
    scene.kernels.append(compiled(other, "conv", x_ptr="*bf16", n="i32", y_ptr="*bf16"))
    scene.functions["conv"] = other
    scene.layer()
    stated = GraphContract({"advance": 1, "conv": 4, "update": 4}, only=True)
    assert scene.found(stated) == []


def test_a_lost_link_and_one_too_many(scene: Scene) -> None:
    scene.layer(type_=0)
    assert "1 edges into update are full, they must be programmatic: PDL is lost" in scene.found()
    scene.add("conv", scene.x.data_ptr(), 7, scene.x.data_ptr(), 0, 0, type_=1)
    assert any("conv are programmatic" in text for text in scene.found())


ENTRY = GraphContract({}, declared=False, entries=frozenset({"update"}))


def test_an_entry_must_be_linked_to_a_known_kernel(scene: Scene) -> None:
    assert scene.found(ENTRY) == []
    scene.layer(type_=0)
    assert scene.found(ENTRY) == [
        "1 edges into update are full, they must be programmatic: PDL is lost"
    ]


def test_an_entry_may_follow_anything_else_by_any_edge(scene: Scene) -> None:
    copy = scene.fake.node(scene.graph, "Memcpy", SimpleNamespace())
    stranger = scene.fake.kernel(scene.graph, scene.fake.function("gemm", 8), 0)
    for before in (copy, stranger):
        scene.last = before
        scene.add("update", 7, scene.x.data_ptr(), 0, 0, type_=0)
    scene.last = stranger
    scene.add("update", 7, scene.x.data_ptr(), 0, 0, type_=1)
    assert scene.found(ENTRY) == []
    strict = replace(ENTRY, entries=frozenset())
    assert scene.found(strict) == [
        "2 edges into update are full, they must be programmatic: PDL is lost"
    ]


def test_an_entry_may_follow_a_join_by_full_edges(scene: Scene) -> None:
    copy = scene.fake.node(scene.graph, "Memcpy", SimpleNamespace())
    assert scene.last is not None
    scene.fake.kernel(
        scene.graph, scene.functions["update"], 7, 0, 0, 0, after=[(scene.last, 0, 0), (copy, 0, 0)]
    )
    assert scene.found(ENTRY) == []


def test_what_must_come_behind_an_entry_may_not_start_beside_another_kernel(scene: Scene) -> None:
    """What reads early what kernels before a layer wrote, where streams fork behind advance."""
    assert scene.found(ENTRY) == []
    behind = replace(ENTRY, behind=frozenset({"update"}))
    assert scene.found(behind) == [
        "3 edges into update are programmatic from conv, which it must not run beside"
    ]
    assert scene.found(replace(behind, entries=frozenset({"update", "conv"}))) == []


def test_an_entry_that_was_not_compiled_to_wait_may_not_be_linked(scene: Scene) -> None:
    scene.add("conv", 0, 7, 0, 0, 0, type_=1)
    entry = replace(ENTRY, entries=frozenset({"conv"}))
    assert scene.found(entry) == [
        "1 edges into conv are programmatic, and it was not compiled to wait"
    ]


@pytest.mark.parametrize(("kind", "name"), [("Memcpy", "memcpy"), ("MemAlloc", "mem_alloc")])
def test_a_copy_or_an_allocation(scene: Scene, kind: str, name: str) -> None:
    scene.fake.node(scene.graph, kind, SimpleNamespace())
    assert scene.found() == [f"1 {name} nodes, none may be there"]
    loose = GraphContract(STATED.counts)
    assert (scene.found(loose) == []) == (name == "memcpy")


def test_a_kernel_that_is_not_the_chains(scene: Scene) -> None:
    scene.functions["copy"] = scene.fake.function("elementwise", 8)
    scene.add("copy", 0)
    assert scene.found() == ["1 nodes of elementwise, none may be there"]
    assert scene.found(GraphContract(STATED.counts)) == []


def test_a_pointer_into_nothing_declared(scene: Scene) -> None:
    stranger = torch.zeros(64)
    scene.layer(stranger)
    stated = GraphContract({})
    found = scene.found(stated)
    assert len(found) == 3
    assert found[0].startswith(f"x_ptr of conv points at {stranger.data_ptr():#x} (unknown memory)")
    assert scene.found(GraphContract({}, declared=False)) == []


def test_the_last_byte_is_inside_and_the_next_is_not(scene: Scene) -> None:
    scene.layer(y=scene.x.data_ptr() + scene.x.nbytes - 1)
    assert scene.found(GraphContract({})) == []
    scene.layer(y=scene.x.data_ptr() + scene.x.nbytes)
    assert [text.split(" points")[0] for text in scene.found(GraphContract({}))] == [
        "y_ptr of conv"
    ]


def test_a_freed_buffer_counts_as_undeclared(scene: Scene) -> None:
    declared = Manifest()
    declared.declare("x", scene.x)
    scene.x.data = torch.zeros(256)
    found = violations(scene.captured(), GraphContract({}), scene.kernels, declared.buffers())
    assert "(moved: x + 0)" in found[0]


def test_temporaries_of_the_capture_are_fine(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = torch.zeros(64)
    scene.layer(temporary)
    held = [(temporary.data_ptr(), temporary.nbytes, PointsTo.POOL)]
    monkeypatch.setattr(contract_module, "allocator_memory", lambda pool: held)
    assert scene.found(GraphContract({})) == []


def test_arguments_in_one_buffer_are_read_too(scene: Scene) -> None:
    stranger = torch.zeros(64)
    scene.fake.kernel(
        scene.graph, scene.functions["update"], 7, stranger.data_ptr(), 0, 0, buffer=True
    )
    assert [text.split(" points")[0] for text in scene.found(GraphContract({}))] == [
        "x_ptr of update"
    ]


def test_the_error_names_the_graph_and_all_that_is_wrong(scene: Scene) -> None:
    scene.layer(type_=0)
    with pytest.raises(ContractError, match=r"^toy=not as stated: 4 nodes of conv.*PDL is lost;"):
        check_contract(scene.captured(), STATED, scene.kernels, _declared(scene.x))
