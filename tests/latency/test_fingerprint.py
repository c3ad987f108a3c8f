# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of graphs and facts of kernels: what is read, and what a difference is called."""

from __future__ import annotations

import pytest
import torch

from graphrt.capture import driver
from graphrt.capture.cuda_graph import CudaGraph
from graphrt.capture.driver import Edge, Kernel
from graphrt.capture.graph import RecordedGraph
from graphrt.config import ChainShape, PdlLinks, RuntimeConfig
from graphrt.kernels.ahead import chain_launches
from graphrt.kernels.tuning import lookup
from graphrt.latency.facts import static_of
from graphrt.latency.fingerprint import differences, fingerprint, lost_links


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> CudaGraph:
    """Return a graph of conv (1) ⇢ pre (2) ⇢ pre (3) → memset (4), as the driver reads it."""
    kernels = {1: "conv", 2: "pre", 3: "pre"}
    monkeypatch.setattr(CudaGraph, "raw_graph", property(lambda self: 7))
    monkeypatch.setattr(driver, "nodes", lambda raw: [1, 2, 3, 4])
    monkeypatch.setattr(driver, "node_type", lambda n: "kernel" if n in kernels else "memset")
    monkeypatch.setattr(driver, "kernel", lambda n: Kernel(kernels[n], (8, 1, 1), (128, 1, 1)))
    monkeypatch.setattr(
        driver, "edges", lambda raw: [Edge(1, 2, 1, 0, 1), Edge(2, 3, 1, 0, 1), Edge(3, 4, 0, 0, 0)]
    )
    return CudaGraph.__new__(CudaGraph)


def test_a_cuda_graph_is_counted_by_kernel_and_by_edge(graph: CudaGraph) -> None:
    assert fingerprint(graph) == {
        "kernels": {
            "<memset>": 1,
            "conv (8,1,1) x (128,1,1)": 1,
            "pre (8,1,1) x (128,1,1)": 2,
        },
        "programmatic": {"conv -> pre": 1, "pre -> pre": 1},
        "full": {"pre -> memset": 1},
    }


def test_a_recorded_graph_has_nothing_to_read() -> None:
    assert fingerprint(RecordedGraph()) == {}


def test_a_lost_link_is_one_that_became_full_and_not_one_that_went() -> None:
    old = {"programmatic": {"a -> b": 4, "b -> c": 4}, "full": {}}
    assert lost_links(old, old) == []
    lost = {"programmatic": {"a -> b": 4, "b -> c": 3}, "full": {"b -> c": 1}}
    assert lost_links(old, lost) == ["b -> c: 4 programmatic edges became 3"]
    assert lost_links(lost, old) == []
    assert lost_links(old, {"programmatic": {}, "full": {}}) == []


def test_differences_name_the_way_to_each_leaf() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    new = {"a": {"b": 2, "c": [1, 2]}, "e": None, "d": 4, "f": 5}
    assert differences(old, new) == ["a b: was 1, is 2", "f: was absent, is 5"]


def test_static_facts_of_compiled_kernels_by_name() -> None:
    shape = ChainShape(heads=2, head_dim=16, state_dim=16)
    config = RuntimeConfig(
        shape=shape,
        layers=1,
        slots=1,
        tokens=2,
        window=2,
        buckets=(1,),
        device=torch.device("cpu"),
    )
    launches = chain_launches(config, 2, lookup(shape, 1), PdlLinks())
    compiled = launches["conv1d"].compile(90)
    facts = static_of([compiled, None])
    assert set(facts) == {"_conv1d_kernel"}
    assert facts["_conv1d_kernel"]["resources"]["registers"] > 0


def test_a_kernel_that_cannot_be_read_costs_no_time_but_is_named() -> None:
    class Broken:
        class metadata:
            name, hash = "_broken_kernel", "not a hash"

    (reason,) = static_of([Broken()])["_broken_kernel"].values()
    assert "Error" in reason
