# SPDX-License-Identifier: Apache-2.0
"""The parts of the GPU report that ask a GPU, its tools or its graphs, on stand-ins for them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from graphrt.bench import conditions
from graphrt.capture import space
from graphrt.capture.driver import Edge
from graphrt.capture.graph import RecordedGraph
from graphrt.kernels.links import StageAccess, kernels_of, stages_of
from tools import gpu_report
from tools.gpu import host, links, sanitizer, small_chain
from tools.gpu.host import interleaved
from tools.gpu.links import check_chain
from tools.gpu.report import run_section
from tools.gpu.settings import Settings

CPU = torch.device("cpu")

# --- links ---------------------------------------------------------------------------------------

PAIR, FUSED, SINGLE = (stages_of(last) for last in ("state_update", "fused", "single"))


def names_of(stages: Sequence[StageAccess]) -> dict[int, str]:
    return dict(enumerate(kernels_of(stages, 2)))


NAMES = names_of(PAIR)


def edges_of(linked: bool, links: int = 6) -> list[Edge]:
    return [Edge(node, node + 1, int(linked), 0, int(linked)) for node in range(links)]


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize(
    ("stages", "links"),
    [(PAIR, 6), (FUSED, 4), (SINGLE, 2)],
    ids=["pair", "fused", "single"],
)
def test_links_that_are_as_they_should_be(
    stages: Sequence[StageAccess], links: int, linked: bool
) -> None:
    names = names_of(stages)
    assert check_chain(names, edges_of(linked, links), stages, 2, linked=linked) == []
    wrong = check_chain(names, edges_of(not linked, links), stages, 2, linked=linked)
    assert len(wrong) == len(set(pairwise(names.values())))  # of a layer, and into the next


@pytest.mark.parametrize(
    ("stages", "others"), [(PAIR, FUSED), (FUSED, PAIR), (SINGLE, FUSED), (FUSED, SINGLE)]
)
def test_a_graph_of_the_other_chain_is_refused(
    stages: Sequence[StageAccess], others: Sequence[StageAccess]
) -> None:
    names = names_of(others)
    assert check_chain(names, edges_of(True, len(names) - 1), stages, 2, linked=True)


def test_links_that_are_not() -> None:
    edges = edges_of(True)
    for spoiled, said in (
        ([*edges[:2], Edge(2, 3, 0, 0, 0), *edges[3:]], "edge types"),
        ([Edge(0, 1, 0, 0, 0), *edges[1:]], "_advance_kernel → _conv1d_kernel: edge types [0]"),
        ([*edges[:3], Edge(3, 4, 0, 0, 0), *edges[4:]], "→ _conv1d_kernel: edge types [0]"),
        ([*edges, Edge(0, 2, 1, 0, 1)], "not a full dependency"),
        ([*edges, Edge(0, 2, 2, 0, 0)], "not a full dependency"),
        (edges[:-1], "in order"),
    ):
        assert any(said in failure for failure in check_chain(NAMES, spoiled, PAIR, 2, linked=True))
    names = NAMES | {3: "<memcpy>"}
    assert check_chain(names, edges, PAIR, 2, linked=True)


@pytest.mark.parametrize("found_off", [True, False])
def test_the_section_wants_links_where_pdl_is_on_and_only_there(
    monkeypatch: pytest.MonkeyPatch, found_off: bool
) -> None:
    settings = Settings.quick(CPU)
    graphs = [True] * 2 * len(settings.buckets) + [not found_off]
    reads = iter(graphs)
    monkeypatch.setattr(links, "read_graph", lambda graph: (NAMES, edges_of(next(reads))))
    monkeypatch.setattr(links, "pdl_supported", lambda device: True)
    found = links.programmatic_links(settings)
    assert [graph["programmatic_edges"] for graph in found["graphs"]] == [6 * on for on in graphs]
    assert [graph["pdl"] for graph in found["graphs"]] == [True] * 6 + [False]
    assert found["graphs"][0]["nodes"] == {
        "_advance_kernel": 1,
        "_conv1d_kernel": 2,
        "_precompute_kernel": 2,
        "_state_update_kernel": 2,
    }
    assert bool(found["failures"]) is not found_off
    assert all(failure.startswith("bucket 1, T 6, PDL off") for failure in found["failures"])


def test_a_recorded_graph_cannot_be_read() -> None:
    found = run_section(gpu_report.SECTIONS["links"], Settings.quick(CPU))
    assert found["failures"] == ["TypeError: RecordedGraph: only CUDA graphs can be read back"]


# --- host ----------------------------------------------------------------------------------------


def test_calls_take_turns_and_the_device_is_waited_for() -> None:
    said: list[str] = []
    timed = {name: lambda name=name: said.append(name) for name in "ab"}
    samples = interleaved(timed, rounds=2, calls=10, settle=lambda: said.append("."))
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 20, "b": 20}
    one = {name: f"{name}.{8 * name}.{2 * name}" for name in "ab"}
    assert "".join(said) == one["b"] + one["a"] + one["a"] + one["b"] + "."


class ReplayedGraph(RecordedGraph):
    """A recorded graph with another way to launch it, as a CUDA graph has PyTorch's."""

    replay_runs = 2

    @property
    def torch_graph(self) -> SimpleNamespace:
        def replay() -> None:
            for _ in range(self.replay_runs):
                self.launch()

        return SimpleNamespace(instantiate=lambda: None, replay=replay)


def test_a_launch_that_costs_more_than_replay_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "CudaGraph", ReplayedGraph)
    monkeypatch.setattr(space, "RecordedGraph", ReplayedGraph)
    settings = Settings.quick(CPU)
    found = host.host_cost(settings)
    assert found["failures"] == []
    assert list(found["graphs"][1]["p50_ns"])[:2] == ["graph.launch", "replay"]
    monkeypatch.setattr(ReplayedGraph, "replay_runs", 0)
    found = host.host_cost(settings)
    assert [failure[:9] for failure in found["failures"]] == ["1 layers:", "2 layers:"]
    assert found["graphs"]


# --- sanitizer -----------------------------------------------------------------------------------


def test_the_small_chain_flushes_and_stays_finite() -> None:
    assert small_chain.run(CPU) >= 5


def pretend_tool(folder: Path, script: str) -> None:
    """Put a compute-sanitizer first on the PATH that runs ``script``."""
    tool = folder / "compute-sanitizer"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)


SETTINGS = replace(Settings.quick(CPU), sanitizer_seconds=60.0)
SUMMARIES = """
case "$*" in
    *--version*) echo "NVIDIA (R) Compute Sanitizer"; echo "Version 2025.3.1.0"; exit;;
    *memcheck*) echo "========= ERROR SUMMARY: $ERRORS errors";;
    *racecheck*) echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)";;
esac
test $ERRORS = 0 || exit 9
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sanitizer, "PROGRAM", ("-c", "print('small chain done')"))
    return tmp_path


def test_a_clean_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_tool(path, SUMMARIES)
    monkeypatch.setenv("ERRORS", "0")
    found = sanitizer.sanitizer(SETTINGS)
    assert found["failures"] == []
    assert found["version"] == "Version 2025.3.1.0"
    assert found["program"] == "small chain done"
    assert [tool["tool"] for tool in found["tools"]] == ["memcheck", "racecheck"]
    assert found["tools"][0]["summary"] == "ERROR SUMMARY: 0 errors"
    assert found["tools"][0]["command"].startswith("compute-sanitizer --tool memcheck ")


def test_errors_are_failures(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_tool(path, SUMMARIES)
    monkeypatch.setenv("ERRORS", "3")
    found = sanitizer.sanitizer(SETTINGS)
    assert "memcheck ends with 9, ERROR SUMMARY: 3 errors" in found["failures"][0]


def test_a_tool_that_hangs_is_ended(path: Path) -> None:
    pretend_tool(path, 'test "$*" = --version || sleep 600')
    found = sanitizer.sanitizer(replace(SETTINGS, sanitizer_seconds=2.0))
    assert [tool["exit_code"] for tool in found["tools"]] == [None, None]
    assert "not done after 2 s" in found["failures"][0]
    assert all(tool["seconds"] < 10 for tool in found["tools"])


def test_no_tool_and_no_program_are_failures(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitizer.shutil, "which", lambda name: None)
    found = sanitizer.sanitizer(SETTINGS)
    assert found["failures"] == ["compute-sanitizer is not on the PATH"]
    monkeypatch.setattr(sanitizer.shutil, "which", lambda name: "compute-sanitizer")
    monkeypatch.setattr(sanitizer, "PROGRAM", ("-c", "raise SystemExit(3)"))
    found = sanitizer.sanitizer(SETTINGS)
    assert [failure[:30] for failure in found["failures"]] == [
        "plain allocator: ends with 3: ",
        "caching allocator: ends with 3",
    ]


@pytest.mark.parametrize(
    ("summary", "clean"),
    [
        ("ERROR SUMMARY: 0 errors", True),
        ("ERROR SUMMARY: 1 error", False),
        ("RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", True),
        ("RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)", False),
        ("no summary", False),
    ],
)
def test_summaries(summary: str, clean: bool) -> None:
    assert sanitizer.clean(summary) is clean


# --- conditions ----------------------------------------------------------------------------------


class FakeProperties:
    uuid = "1-2-3"


def test_one_name_nvidia_smi_does_not_know_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\ncase "$*" in *wrong*) echo "Field wrong is not valid"; exit 2;; esac\n'
        'case "$*" in *clocks.sm,pstate*) echo "1980 MHz, P0";; *clocks.sm*) echo "1980 MHz";;\n'
        "*pstate*) echo P0;; esac\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: FakeProperties)
    both = {"clocks.sm": "1980 MHz", "pstate": "P0"}
    assert conditions.query(list(both), CPU) == both
    assert conditions.query(["clocks.sm", "wrong", "pstate"], CPU) == both | {
        "wrong": "Field wrong is not valid"
    }
    tool.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "FileNotFoundError" in conditions.query(["pstate"], CPU)["pstate"]


def test_the_slug_is_the_gpus_short_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert conditions.gpu_slug(torch.device("cuda", 0)) == "h200"
    assert conditions.gpu_slug(CPU) == "cpu"
