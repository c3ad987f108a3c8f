# SPDX-License-Identifier: Apache-2.0
"""``graphrt bench`` and ``tools.tune`` as a person runs them, on the CPU with tiny counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graphrt import cli
from graphrt.bench import run
from graphrt.bench.cases import SHAPES, Case
from graphrt.bench.gate import GateError
from graphrt.bench.peers import PEERS
from graphrt.bench.peers.flashinfer_ring import tactics
from graphrt.kernels import tuning
from graphrt.kernels.tuning import ChainLaunch, Key
from tools import tune

QUICK = ["bench", "--quick", "--device", "cpu", "--commit", "abc"]
OURS = {"chain", "launch", "advance", "conv1d", "precompute", "state_update", "pair"}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphrt.bench.cli.QUICK_BATCHES", (1, 2))


def bench(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[dict[str, Any], str]:
    assert cli.main([*QUICK, "--json", *more]) == 0
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def test_json_holds_times_gates_floors_and_conditions(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "bench.json"
    report, progress = bench(capsys, "--state-dtype", "fp16", "--pdl", "both", "--out", str(out))
    assert json.loads(out.read_text(encoding="utf-8")) == report
    assert [c["case"]["batch"] for c in report["cases"]] == [1, 2, 1, 2]
    assert [c["case"]["pdl"] for c in report["cases"]] == [True, True, False, False]
    assert report["conditions"]["commit"] == {"hash": "abc", "dirty": None}
    assert report["copy_bytes_per_s"] > 0
    for case in report["cases"]:
        assert case["failed"] is None
        assert OURS | {"snapshots", "read", "moves"} == set(case["times"]) == set(case["gates"])
        assert {"empty", "launch_normal", "launch_linked", *PEERS} == set(case["absent"])
        assert all(error < 1e-2 for error in case["gates"].values())
        pair = case["times"]["pair"]
        assert pair["floor_bytes"] > 0 and pair["calls"] == case["calls"]
        assert case["times"]["snapshots"]["beside"] == "pair"
    assert "1/4" in progress and "4/4" in progress and "gates" in progress


def test_the_table_names_every_contender(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*QUICK, "--state-dtype", "fp32", "--batch", "1", "--history", "all-flush"]
    assert cli.main(arguments) == 0
    table = capsys.readouterr().out
    for word in ("chain", "snapshots", "read", "moves", "% floor", "all-flush", "TB/s", "without"):
        assert word in table


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shape", "wide"], "--shape=wide"),
        (["--shape", "3,16,16,2"], "groups=2"),
        (["--window", "64"], "window=64"),
        (["--history", "fixed:9"], "history=fixed:9"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*QUICK, *more]) == 2
    assert message in capsys.readouterr().err


def test_a_failed_gate_is_exit_code_1_and_no_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*_: object, **__: object) -> float:
        raise GateError("wrong")

    monkeypatch.setattr(run, "check_chain", wrong)
    assert cli.main([*QUICK, "--batch", "1", "--state-dtype", "fp16"]) == 1
    said = capsys.readouterr()
    assert "FAILED batch 1" in said.out and "GateError: wrong" in said.out


def test_one_peer_that_breaks_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise ValueError("not today")

    monkeypatch.setattr(run, "peers", lambda work, effort: [broken] * len(PEERS))
    found = run.bench_case(
        Case(shape=SHAPES["tiny"], batch=1), torch.device("cpu"), run.Effort.quick(), 1e9
    )
    assert found["failed"] is None
    assert found["absent"]["flashinfer_ring"] == "failed: ValueError: not today"


def test_the_searched_settings_are_ones_that_flashinfer_takes() -> None:
    for heads_per_group in (1, 8, 16):
        for stages, ctas, heads, split in tactics(heads_per_group, 64):
            assert split in (1, 2)
            if stages:
                assert 1 <= ctas <= 32
                assert heads in [max(1, heads_per_group >> shift) for shift in range(5)]
            else:
                assert (ctas, heads) == (0, 0)


def test_tuning_writes_what_look_up_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "sm_00.json"
    base = ["--quick", "--device", "cpu", "--shape", "tiny", "--state-dtype", "fp16"]
    assert tune.main([*base, "--batch", "1", "2", "--out", str(out), "--commit", "abc"]) == 0
    assert tune.main([*base, "--batch", "2", "--out", str(out)]) == 0  # again: in its place
    part = ["--stage", "conv1d", "--batch", "2", "--out", str(out)]
    assert tune.main([*base, *part]) == 0  # one stage: what was tried of the others stays
    table = json.loads(out.read_text(encoding="utf-8"))
    assert len(table["entries"]) == 2
    for entry in table["entries"]:
        assert entry["measured_us"]["pair"] and entry["versions"]["triton"] and entry["date"]
        assert set(entry["measured_us"]["tried"]) == {
            "state_update",
            "precompute",
            "fused",
            "conv1d",
            "single",
        }
    monkeypatch.setattr(tuning, "files", lambda name: tmp_path)
    tuning.measured.cache_clear()
    ((key, launch), _) = tuning.measured("sm_00")
    tuning.measured.cache_clear()
    assert isinstance(key, Key) and isinstance(launch, ChainLaunch)
    assert tuning.choose(key, [(key, launch)], ()).match == "exact"


def test_the_first_within_noise_wins() -> None:
    assert tune.first_within_noise({"a": 1.005, "b": 1.0, "c": 0.999}) == "a"
    assert tune.first_within_noise({"a": 1.05, "b": 1.0, "c": 0.999}) == "b"
