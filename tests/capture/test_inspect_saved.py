# SPDX-License-Identifier: Apache-2.0
"""Reports that an H200 saved are read back whole, audited and folded without a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphrt.capture.inspect import dot
from graphrt.capture.inspect.findings import find
from graphrt.capture.inspect.fold import Run, fold, short_name
from graphrt.capture.inspect.report import PointsTo
from graphrt.capture.inspect.schema import dumps, loads
from graphrt.config import PdlLinks
from graphrt.kernels.links import linked_stages, stages_of
from tests.capture.saved_reports import FOLDER, NAMES, saved, without_nodes

CHAINS = [name for name in NAMES if name.startswith("chain")]


def test_the_folder_is_small_and_holds_every_kind_of_graph() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_500_000
    kinds = {node.kind for name in NAMES for _, node in saved(name).walk()}
    assert kinds == {"kernel", "memcpy", "child_graph", "conditional"}


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_report_survives_its_json_and_gives_the_same_findings(name: str) -> None:
    report = saved(name)
    assert loads(dumps(report)) == report
    assert tuple(find(report, declared=bool(report.buffers))) == report.findings


@pytest.mark.parametrize("name", CHAINS)
def test_the_links_of_a_captured_chain_are_acquitted(name: str) -> None:
    report = saved(name)
    # Saved when conv1d was launched normally.
    stages = stages_of("state_update")
    linked = linked_stages(PdlLinks(conv1d=False, precompute=True, state_update=True), stages)
    assert find(report, declared=True, stages=stages, linked=linked) == []
    body = report.bodies[0]
    lost = tuple(replace(e, from_port=0, type=0) if e.target == 3 else e for e in body.edges)
    other = replace(report, bodies=(replace(body, edges=lost),))
    (finding,) = find(other, declared=True, stages=stages, linked=linked)
    assert (finding.severity, finding.node) == ("warning", 3)
    assert "state_update" in finding.sentence


@pytest.mark.parametrize("name", ["stale-freed", "stale-replaced", "stale-swapped"])
def test_a_stale_weight_is_named_with_node_and_argument(name: str) -> None:
    (finding,) = saved(name).errors
    assert (finding.buffer, finding.node, finding.argument) == ("2.weight", 2, "argument 0")
    assert "at byte 176, 432, 816, 880, 1704 of it" in finding.sentence


def test_every_pointer_of_the_chain_is_into_a_declared_buffer() -> None:
    targets = {
        pointer.to
        for name in CHAINS
        for _, node in saved(name).walk()
        if node.kernel
        for argument in node.kernel.arguments
        for pointer in argument.pointers
    }
    assert targets == {PointsTo.BUFFER, PointsTo.NULL}


def test_the_driver_s_own_drawing_shows_a_loop_and_its_body() -> None:
    text = (FOLDER / "while.dot").read_text(encoding="utf-8")
    ((loop, kind),) = dot.conditions(text).items()
    outer, inner = dot.bodies(text).values()
    assert kind == "while"
    assert outer == [loop]
    assert len(set(inner) - {loop}) == 3


# --- folding -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("chain-48-layers", [Run(0, 1, 1), Run(1, 3, 48)]),
        ("chain-500-layers", [Run(0, 1, 1), Run(1, 3, 500)]),
        ("chain-bucket-1", [Run(place, 1, 1) for place in range(4)]),
    ],
)
def test_layers_fold(name: str, runs: list[Run]) -> None:
    report = saved(name)
    assert fold(report, report.bodies[0]) == runs


def test_the_layers_of_a_model_fold() -> None:
    report = saved("model-step")
    assert [run for run in fold(report, report.bodies[0]) if run.count > 1] == [Run(3, 24, 7)]


@pytest.mark.parametrize("name", NAMES)
def test_runs_cover_every_node_once(name: str) -> None:
    report = saved(name)
    for body in report.bodies:
        place = 0
        for run in fold(report, body):
            assert run.start == place
            place += run.nodes
        assert place == len(body.nodes)


def test_a_layer_that_differs_is_not_folded_away() -> None:
    report = without_nodes(saved("chain-48-layers"), {1 + 3 * 20})  # no conv1d in layer 20
    runs = [run for run in fold(report, report.bodies[0]) if run.count > 1]
    assert runs == [Run(1, 3, 20), Run(63, 3, 27)]


def test_a_lost_link_is_not_folded_away() -> None:
    report = saved("chain-48-layers")
    body = report.bodies[0]
    edges = tuple(replace(e, from_port=0, type=0) if e.target == 63 else e for e in body.edges)
    report = replace(report, bodies=(replace(body, edges=edges),))
    runs = [run for run in fold(report, report.bodies[0]) if run.count > 1]
    assert runs == [Run(1, 3, 20), Run(64, 3, 27)]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("_conv1d_kernel", "_conv1d_kernel"),
        (
            "_ZN2at6native24vectorized_gather_kernelILi16ElEEvPcS2_PT0_illllb",
            "vectorized_gather_kernel",
        ),
        (
            "_ZN2at6native29vectorized_elementwise_kernelILi4ENS0_11FillFunctorIfEESt5arrayIPcLm1EEE",
            "vectorized_elementwise_kernel<FillFunctor>",
        ),
        ("_Z3addPf", "add"),
        ("_Z", "_Z"),
        ("_ZN99999999x", "_ZN99999999x"),
        ("", ""),
    ],
)
def test_short_names(name: str, short: str) -> None:
    assert short_name(name) == short
