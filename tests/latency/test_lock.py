# SPDX-License-Identifier: Apache-2.0
"""The device's lock: one process at a time, and none left behind by a killed one."""

import multiprocessing
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch

from graphrt.latency import lock
from graphrt.latency.lock import device_lock

CPU = torch.device("cpu")


def hold(folder: str, held: Event, seconds: float) -> None:
    lock.tempfile.tempdir = folder
    with device_lock(CPU):
        held.set()
        time.sleep(seconds)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(lock.tempfile, "tempdir", str(tmp_path))
    return str(tmp_path)


def test_a_second_process_waits_and_says_so(folder: str) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=hold, args=(folder, held, 1.0))
    other.start()
    assert held.wait(60)
    said: list[str] = []
    begin = time.monotonic()
    with device_lock(CPU, said.append):
        waited = time.monotonic() - begin
    other.join()
    assert said == ["waiting for another measurement of cpu to end"]
    assert waited > 0.3


def test_a_killed_process_leaves_no_lock(folder: str) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=hold, args=(folder, held, 600.0))
    other.start()
    assert held.wait(60)
    other.kill()
    other.join()
    said: list[str] = []
    with device_lock(CPU, said.append):
        pass
    assert said == []
