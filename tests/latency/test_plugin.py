# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin, run as users run it, on the CPU: recording, comparing, skipping, xdist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from graphrt.latency.files import load

REPOSITORY = Path(__file__).parents[2]

# Three lines of a test's author, besides what is measured.
TESTS = """
import os, time
import pytest

US = float(os.environ.get("SPIN_US", "100"))

def spin():
    until = time.perf_counter_ns() + US * 1e3
    while time.perf_counter_ns() < until:
        pass

@pytest.mark.latency(minimum_effect=0.3)
def test_spin(latency):
    latency.measure(spin, parts={"spin": spin})

@pytest.mark.latency(quantities=["gpu_span", "step"])
def test_needs_a_gpu(latency):
    latency.measure(spin)

@pytest.mark.latency(quantities=["step"])
def test_two(latency):
    latency.measure(spin, "first")
    latency.measure(spin, "second")
"""


SPIN = "test_spin.py::test_spin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "test_spin.py").write_text(TESTS, encoding="utf-8")
    settings = "[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n"
    (tmp_path / "pytest.ini").write_text(settings, encoding="utf-8")
    return tmp_path


def run(folder: Path, *options: str, spin_us: float = 100, plugin: bool = True) -> tuple[int, str]:
    installed = any(p.value == "graphrt.latency.plugin" for p in entry_points(group="pytest11"))
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    load_it = ["-p", "graphrt.latency.plugin"] if plugin and not installed else []
    cpu = ["--latency-device", "cpu"] if plugin else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", *load_it, *cpu, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "SPIN_US": str(spin_us)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    return done.returncode, done.stdout + done.stderr


def test_recorded_compared_and_a_loss_refused_with_its_reason(folder: Path) -> None:
    rc, said = run(folder, "--latency-record", "base.json")
    assert rc == 0, said
    assert "SKIPPED" in said and "gpu_span: needs a CUDA device" in said
    recorded = load(folder / "base.json")
    assert set(recorded.cases) == {
        "test_spin.py::test_spin",
        "test_spin.py::test_two [first]",
        "test_spin.py::test_two [second]",
    }
    assert {k.quantity for k in recorded.cases["test_spin.py::test_two [first]"].series} == {"step"}
    # So large a loss that a host which is busy with other work does not hide it, but for `step`,
    # whose interval is wide where steps are put off.
    rc, said = run(folder, "--latency-compare", "base.json", SPIN, spin_us=1000)
    assert rc == 1, said
    assert re.search(r"test_spin: host_launch SLOWER \+\d+", said), said
    assert re.search(r"test_spin: cpu_part of spin SLOWER \+\d+", said), said
    assert "stage: spin +" in said
    assert "accept it with --latency-record" in said


def test_workers_of_xdist_record_into_one_file_that_later_runs_are_held_to(folder: Path) -> None:
    rc, said = run(folder, "--latency-quick", "--latency-record", "base.json", "-n", "2")
    assert rc == 0, said
    assert len(load(folder / "base.json").cases) == 3
    # The same passes: with so large a minimum that a busy machine cannot fail it.
    quick = ["--latency-quick", "--latency-compare", "base.json"]
    options = ["--latency-minimum-effect", "step=2", "--latency-minimum-effect", "cpu_part=2"]
    options += ["--latency-minimum-effect", "host_launch=2"]
    options += ["--latency-minimum-effect", "first_launch=9", "--latency-minimum-effect"]
    rc, said = run(folder, *quick, SPIN, *options, "capture=9")
    assert rc == 0 and "1 passed" in said, said
    # A baseline of another machine does not.
    told = json.loads((folder / "base.json").read_text())
    told["conditions"]["cpu"] = "another"
    (folder / "base.json").write_text(json.dumps(told))
    rc, said = run(folder, *quick, "test_spin.py::test_two")
    assert rc == 1 and "times are only comparable on one GPU, driver and setting" in said


@pytest.mark.parametrize(
    "content", ["", "{}", '{"kind": "graphrt latency recording", "schema": 9}']
)
def test_a_baseline_that_is_none_stops_the_run_with_a_sentence(folder: Path, content: str) -> None:
    (folder / "base.json").write_text(content)
    rc, said = run(folder, "--latency-compare", "base.json")
    assert rc == 4 and "--latency-compare: base.json" in said and "Traceback" not in said


def test_the_plugin_costs_a_suite_nothing_that_does_not_use_it(folder: Path) -> None:
    (folder / "test_spin.py").write_text(
        "import sys\n\ndef test_light():\n    assert 'torch' not in sys.modules\n"
    )
    rc, said = run(folder)
    assert rc == 0, said
