# SPDX-License-Identifier: Apache-2.0
"""What the shipped launch configurations compile to is what tests/golden says. No GPU is needed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

from graphrt.kernels.static_facts import differences
from tools import static_facts as tool

KERNELS = list(tool.shipped_kernels())


def first(stage: str) -> tool.Kernel:
    return next(k for k in KERNELS if f": {stage}" in k.name and k.capability == 90)


PRECOMPUTE = first("precompute")
STATE_UPDATE = first("state_update block_head_dim=16 num_warps=1 in_shared=False")


def load_golden(version: str, path: Path) -> dict[str, Any]:
    """Return what ``path`` holds; fail, or skip for a release that has no file on purpose."""
    release = tool.release(version)
    if not path.is_file():
        if release not in tool.SUPPORTED_TRITON:
            pytest.skip(f"Triton {version} is not among {', '.join(tool.SUPPORTED_TRITON)}")
        pytest.fail(f"{path.name}=missing: Triton {release} must have one; run `make facts`")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def golden() -> dict[str, Any]:
    return load_golden(triton.__version__, tool.golden_path())


def complaint(golden: dict[str, Any], kernel: tool.Kernel) -> str:
    """Return what differs and how to accept it, nothing when nothing does."""
    was = golden["kernels"].get(kernel.name, {}).get(kernel.target, {})
    found = differences(was, kernel.facts())
    if not found:
        return ""
    lines = "\n".join(f"  {line}" for line in found)
    return (
        f"{kernel.name} on {kernel.target} "
        f"(Triton {golden['triton']} then, {triton.__version__} now)\n{lines}\n"
        "If all of it is meant: run `make facts` and commit the file."
    )


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: f"{kernel.target}-{kernel.name}")
def test_the_kernel_compiles_to_what_it_did(golden: dict[str, Any], kernel: tool.Kernel) -> None:
    if found := complaint(golden, kernel):
        pytest.fail(found, pytrace=False)


def test_the_file_has_the_shipped_kernels_and_no_others(golden: dict[str, Any]) -> None:
    written = {(name, target) for name, facts in golden["kernels"].items() for target in facts}
    assert written == {(kernel.name, kernel.target) for kernel in KERNELS}, "run `make facts`"


def planted(golden: dict[str, Any], kernel: tool.Kernel, **launch: Any) -> str:
    """Return what the test above would say of ``kernel`` with its launch changed."""
    return complaint(golden, replace(kernel, launch=replace(kernel.launch, **launch)))


def test_a_narrower_load_is_seen(golden: dict[str, Any]) -> None:
    launch = STATE_UPDATE.launch
    arguments = list(launch.arguments)
    state = launch.kernel.arg_names.index("state_ptr")
    arguments[state] = torch.empty(9, dtype=torch.float16)[1:]  # no multiple of 16 bytes
    found = planted(golden, STATE_UPDATE, arguments=tuple(arguments))
    assert "broken: before_wait LDG.E.LTC128B.128: was " in found
    assert "broken: before_wait LDG.E.LTC128B.U16: was " in found
    assert "run `make facts`" in found


def test_a_spill_is_seen(golden: dict[str, Any]) -> None:
    found = planted(golden, STATE_UPDATE, keywords=STATE_UPDATE.launch.keywords | {"maxnreg": 40})
    for fact in ("stack_bytes", "spill_loads", "spill_stores"):
        assert f"broken: resources {fact}: was 0, is " in found
    assert "changed: resources registers: was " in found


@pytest.mark.parametrize(("constant", "fact"), [("WAIT", "waits"), ("SIGNAL", "signals")])
def test_a_missing_end_of_a_link_is_seen(golden: dict[str, Any], constant: str, fact: str) -> None:
    found = planted(golden, PRECOMPUTE, keywords=PRECOMPUTE.launch.keywords | {constant: False})
    assert f"{PRECOMPUTE.name} on sm_90" in found
    assert f"broken: order {fact}: was 1, is 0" in found


def test_a_load_that_crosses_the_wait_is_broken_and_an_exponential_has_changed() -> None:
    was = {"before_wait": {"LDG.E.128": 4, "MUFU.EX2": 2}, "after_wait": {"LDG.E.128": 2}}
    now = {"before_wait": {"LDG.E.128": 3}, "after_wait": {"LDG.E.128": 3, "MUFU.EX2": 2}}
    assert differences(was, was) == []
    assert differences(was, now) == [
        "broken: before_wait LDG.E.128: was 4, is 3",
        "broken: after_wait LDG.E.128: was 2, is 3",
        "changed: before_wait MUFU.EX2: was 2, is 0",
        "changed: after_wait MUFU.EX2: was 0, is 2",
    ]


def test_a_release_without_a_file_fails_when_supported_and_is_skipped_otherwise(
    tmp_path: Path,
) -> None:
    path = tmp_path / "static_facts-triton-3.7.json"
    with pytest.raises(pytest.fail.Exception, match="run `make facts`"):
        load_golden("3.7.9", path)
    with pytest.raises(pytest.skip.Exception, match=r"Triton 9.9.0 is not among 3.6, 3.7"):
        load_golden("9.9.0", path)


@pytest.mark.parametrize("release", tool.SUPPORTED_TRITON)
def test_every_supported_release_has_a_file_as_the_tool_writes_it(release: str) -> None:
    path = tool.golden_path(f"{release}.0")
    text = path.read_text(encoding="utf-8")
    assert tool.as_json(json.loads(text)) == text
    assert tool.release(json.loads(text)["triton"]) == release


def test_the_table_has_a_line_for_each_kernel_and_target(golden: dict[str, Any]) -> None:
    lines = tool.table(golden).splitlines()
    assert len(lines) == 1 + len(KERNELS)
    assert all(line.split()[0].startswith("sm_") for line in lines[1:])
