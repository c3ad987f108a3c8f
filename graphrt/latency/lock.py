# SPDX-License-Identifier: Apache-2.0
"""One measurement at a time on a device, whatever the process; workers of pytest-xdist too."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def lock_path(device: torch.device) -> Path:
    """Return the file that is locked: one a user and a device, by its UUID; one for the CPU."""
    name = "cpu"
    if device.type == "cuda":
        name = str(torch.cuda.get_device_properties(device).uuid)
    return Path(tempfile.gettempdir()) / f"graphrt-latency-{os.getuid()}-{name}.lock"


@contextmanager
def device_lock(
    device: torch.device, say: Callable[[str], object] = lambda line: None
) -> Iterator[None]:
    """Hold the device's lock; wait for it, and say so, while another process measures.

    The lock goes with the process that holds it, so one that was killed leaves none behind. Not to
    be taken twice by one process.
    """
    path = lock_path(device)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another measurement of {device} to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
