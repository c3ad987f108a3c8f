# SPDX-License-Identifier: Apache-2.0
"""``graphrt info`` always prints, and the command line's failures are one sentence."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from graphrt import cli, info
from graphrt.capture import driver
from graphrt.errors import CheckpointError, ConfigError

REPOSITORY = Path(__file__).parent.parent


def facts_by_name() -> dict[str, info.Fact]:
    return {fact.name: fact for fact in info.collect()}


def run_info(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "graphrt", "info", *options],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_python_m_graphrt_prints_every_fact() -> None:
    lines = run_info().stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(facts_by_name())


def test_json_holds_the_same_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["torch"]["value"] == torch.__version__
    assert list(printed) == list(facts_by_name())
    assert all(set(fact) == {"value", "note"} for fact in printed.values())


def test_a_probe_that_fails_says_so_and_the_others_still_print(tmp_path: Path) -> None:
    for module in ("torch", "triton"):
        (tmp_path / f"{module}.py").write_text("raise OSError('libcudart.so is missing')")
    done = run_info("--json", PYTHONPATH=str(tmp_path))
    facts = json.loads(done.stdout)
    for name in ("torch", "triton", "gpu", "pdl", "backend"):
        assert facts[name] == {"value": None, "note": "OSError: libcudart.so is missing"}
    assert facts["python"]["value"] == sys.version.split()[0]


def test_without_a_gpu_the_twins_run_and_the_reason_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    facts = facts_by_name()
    assert facts["backend"].value == "PyTorch twins on the CPU"
    assert facts["gpu"].value is None
    assert facts["gpu"].note
    assert (facts["pdl"].value, facts["pdl"].note) == (False, "no GPU")


@pytest.mark.parametrize(("capability", "supported"), [((8, 9), False), ((9, 0), True)])
def test_pdl_follows_the_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], supported: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    facts = facts_by_name()
    assert facts["pdl"].value is supported
    assert "sm_90" in facts["pdl"].note
    assert facts["capability"].value == "sm_{}{}".format(*capability)
    assert facts["backend"].value == "Triton kernels in CUDA graphs on cuda:0"


@pytest.mark.parametrize(("setting", "on"), [(None, False), ("1", True), ("0", False)])
def test_the_interpreter_setting_is_read_as_triton_reads_it(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, on: bool
) -> None:
    if setting is None:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    else:
        monkeypatch.setenv("TRITON_INTERPRET", setting)
    assert facts_by_name()["interpreter"].value is on


def test_bindings_that_do_not_serve_are_shown_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "bindings_version", lambda: "13.2.0")
    fact = facts_by_name()["cuda-bindings"]
    assert fact.value == "13.2.0"
    assert "13.3.0" in fact.note


@pytest.mark.gpu
def test_the_gpu_is_named() -> None:
    facts = facts_by_name()
    assert facts["gpu"].value == torch.cuda.get_device_name()
    for name in ("capability", "sm_count", "memory_bytes", "driver", "driver_cuda"):
        assert facts[name].value, facts[name].note


def run_failing_verb(monkeypatch: pytest.MonkeyPatch, error: Exception, *options: str) -> int:
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(
        cli.importlib, "import_module", lambda name: types.SimpleNamespace(main=fail)
    )
    return cli.main(["demo", *options])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("window=1: must be 4 … 32; raise window"), 2, "window=1: must be 4 … 32"),
        (CheckpointError("config.json=missing: x;\n  y"), 1, "config.json=missing: x; y"),
        (KeyError("x"), 1, "KeyError: 'x'; --debug shows where it came from"),
    ],
)
def test_a_failure_is_one_sentence_and_a_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    said: str,
) -> None:
    assert run_failing_verb(monkeypatch, error) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"graphrt demo: {said}")
    assert printed.err.count("\n") == 1


def test_debug_lets_the_traceback_through(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        run_failing_verb(monkeypatch, KeyError("x"), "--debug")


def test_ctrl_c_is_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_failing_verb(monkeypatch, KeyboardInterrupt()) == 130  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "VERB"),
        (["fly"], "invalid choice"),
        (["generate"], "--prompt"),
        (["demo", "--tokens", "0"], "0: must be a whole number ≥ 1"),
        (["demo", "--tokens", "four"], "four: must be a whole number ≥ 1"),
    ],
)
def test_wrong_arguments_exit_with_2(
    capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(argv)
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err
