# SPDX-License-Identifier: Apache-2.0
"""Diffs and fingerprints: what counts as another graph, and what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphrt.capture.inspect.diff import diff_reports
from graphrt.capture.inspect.fingerprint import fingerprint
from graphrt.capture.inspect.golden import assert_same_graph
from graphrt.capture.inspect.report import Node, Pointer, PointsTo, Report
from graphrt.capture.inspect.schema import save
from graphrt.errors import ReportError
from tests.capture.saved_reports import NAMES, saved, with_node, without_nodes


def with_kernel(report: Report, place: int, **changes: Any) -> Report:
    def change(node: Node) -> Node:
        assert node.kernel is not None
        return replace(node, kernel=replace(node.kernel, **changes))

    return with_node(report, place, change)


def with_pointer(report: Report, place: int, argument: int, **changes: Any) -> Report:
    kernel = report.bodies[0].nodes[place].kernel
    assert kernel is not None
    old = kernel.arguments[argument]
    first, *rest = old.pointers
    new = replace(old, pointers=(replace(first, **changes), *rest))
    arguments = (*kernel.arguments[:argument], new, *kernel.arguments[argument + 1 :])
    return with_kernel(report, place, arguments=arguments)


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_is_itself(name: str) -> None:
    report = saved(name)
    diff = diff_reports(report, replace(report, name="again"))
    assert diff.same and not diff.code
    assert fingerprint(report) == fingerprint(replace(report, name="again", findings=()))


def test_every_saved_graph_has_a_fingerprint_of_its_own() -> None:
    # Swapped and replaced weights leave the same graph: its pointer is to where the weight was.
    different = [name for name in NAMES if name != "stale-swapped"]
    assert len({fingerprint(saved(name)) for name in different}) == len(different)


def test_two_buckets() -> None:
    text = str(diff_reports(saved("chain-bucket-1"), saved("chain-bucket-4")))
    first, *lines = text.splitlines()
    assert first == "graph of bucket 1, T 6 → graph of bucket 4, T 6: 14 changed"
    assert "  changed node 0 _advance_kernel: argument rows: 1 → 4" in lines
    assert "  changed node 1 _conv1d_kernel: grid: (10, 1, 1) → (5, 4, 1)" in lines
    assert "  changed node 3 _state_update_kernel: option num_warps: 4 → 2" in lines
    assert "  changed buffer slot_ids: shape: (1,) → (4,)" in lines


@pytest.mark.parametrize("layer", [0, 20, 47])
def test_a_removed_layer_is_just_that(layer: int) -> None:
    whole = saved("chain-48-layers")
    places = {1 + 3 * layer + stage for stage in range(3)}
    less = without_nodes(whole, places)
    removed = [d for d in diff_reports(whole, less).graph if d.kind == "removed"]
    assert [d.where for d in removed] == [f"node {place}" for place in sorted(places)]
    rest = [d for d in diff_reports(whole, less).graph if d.kind != "removed"]
    # The next layer follows another node now.
    assert len(rest) == (1 if layer < 47 else 0)
    assert all("edge from" in d.what for d in rest)
    assert {d.kind for d in diff_reports(less, whole).graph} <= {"added", "changed"}


def test_a_lost_link_is_a_changed_edge() -> None:
    report = saved("chain-bucket-4")
    body = report.bodies[0]
    edges = tuple(replace(e, from_port=0, type=0) if e.target == 3 else e for e in body.edges)
    other = replace(report, bodies=(replace(body, edges=edges),))
    (difference,) = diff_reports(report, other).graph
    assert str(difference) == (
        "changed node 3 _state_update_kernel: edge from _precompute_kernel: programmatic → full"
    )
    assert fingerprint(other) != fingerprint(report)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"grid": (9, 4, 1)}, "grid"),
        ({"block": (64, 1, 1)}, "block"),
        ({"shared_bytes": 0}, "shared bytes"),
        ({"cluster": (2, 1, 1)}, "cluster"),
        ({"priority": -1}, "priority"),
        ({"cooperative": 1}, "cooperative"),
        ({"function": 2}, None),
    ],
)
def test_one_changed_attribute(changes: dict[str, Any], what: str | None) -> None:
    report = saved("chain-bucket-4")
    other = with_kernel(report, 1, **changes)
    found = [(d.kind, d.what) for d in diff_reports(report, other).graph]
    assert found == ([("changed", what)] if what else [("removed", ""), ("added", "")])
    assert fingerprint(other) != fingerprint(report)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"address": 0x1000}, True),
        ({"offset_bytes": 128}, False),
        ({"buffer": "layers.0.conv_bias"}, False),
        ({"to": PointsTo.FREED}, False),
    ],
    ids=str,
)
def test_a_pointer_counts_by_the_buffer_it_names(changes: dict[str, Any], same: bool) -> None:
    report = saved("chain-bucket-4")
    other = with_pointer(report, 1, 1, **changes)
    assert diff_reports(report, other).same == same
    assert (fingerprint(report) == fingerprint(other)) == same


def test_a_pointer_into_the_pool_counts_as_pool_and_a_structure_by_its_pointers() -> None:
    report = saved("torch-mlp")
    node = report.bodies[0].nodes[0]
    assert node.kernel is not None
    (argument,) = node.kernel.arguments
    assert len(argument.value) > 200
    moved = tuple(
        replace(p, address=p.address + 512) if p.to is PointsTo.POOL else p
        for p in argument.pointers
    )
    noise = replace(argument, value="ff" + argument.value[2:], pointers=moved)
    assert diff_reports(report, with_kernel(report, 0, arguments=(noise,))).same
    fewer = replace(argument, pointers=argument.pointers[1:])
    assert not diff_reports(report, with_kernel(report, 0, arguments=(fewer,))).same
    other = Pointer(argument.pointers[0].at, 1, PointsTo.ALLOCATED)
    swapped = replace(argument, pointers=(other, *argument.pointers[1:]))
    assert not diff_reports(report, with_kernel(report, 0, arguments=(swapped,))).same


def test_a_stale_weight_shows_between_two_looks_at_one_graph() -> None:
    diff = diff_reports(saved("torch-mlp"), saved("stale-freed"))
    assert {(d.before, d.after) for d in diff.graph} == {("2.weight + 0", "freed: 2.weight + 0")}


def test_what_the_compiler_chose_is_told_and_does_not_count() -> None:
    report = saved("chain-bucket-4")
    functions = (replace(report.functions[0], registers=99), *report.functions[1:])
    other = replace(report, functions=functions)
    diff = diff_reports(report, other)
    assert diff.same
    assert "kernel _advance_kernel: registers: 32 → 99" in str(diff)
    assert fingerprint(report) == fingerprint(other)


def test_the_body_of_a_loop_is_compared() -> None:
    report = saved("while")
    body = report.bodies[1]
    node = body.nodes[0]
    assert node.kernel is not None
    wider = replace(node, kernel=replace(node.kernel, grid=(7, 1, 1)))
    other = replace(
        report, bodies=(report.bodies[0], replace(body, nodes=(wider, *body.nodes[1:])))
    )
    (difference,) = diff_reports(report, other).graph
    assert (difference.where, difference.what) == ("body 1 node 0", "grid")
    assert fingerprint(other) != fingerprint(report)


# --- one assertion -------------------------------------------------------------------------------


def test_the_assertion_holds_names_what_differs_and_updates(tmp_path: Path) -> None:
    golden = tmp_path / "golden.json"
    old, new = saved("chain-bucket-1"), saved("chain-bucket-4")
    with pytest.raises(AssertionError, match="no such file; write it with update=True"):
        assert_same_graph(old, golden)
    assert_same_graph(old, golden, update=True)
    assert_same_graph(old, golden)
    with pytest.raises(AssertionError) as caught:
        assert_same_graph(new, golden)
    said = str(caught.value)
    assert said.startswith(f"graph of bucket 4, T 6 is not the graph of {golden}:\n")
    assert "changed node 0 _advance_kernel: argument rows: 1 → 4" in said
    assert said.endswith("if that is meant, write the file anew with update=True")
    assert_same_graph(new, golden, update=True)
    assert_same_graph(new, golden)


def test_a_long_difference_is_cut(tmp_path: Path) -> None:
    golden = tmp_path / "golden.json.gz"
    save(saved("chain-48-layers"), golden)
    with pytest.raises(AssertionError) as caught:
        assert_same_graph(saved("chain-500-layers"), golden)
    said = str(caught.value).splitlines()
    assert len(said) == 23 and said[-2].startswith("  and ")


def test_a_golden_file_that_is_no_report(tmp_path: Path) -> None:
    golden = tmp_path / "golden.json.gz"
    golden.write_bytes(b"\x1f\x8b broken")
    with pytest.raises(ReportError, match="broken gzip"):
        assert_same_graph(saved("while"), golden)
