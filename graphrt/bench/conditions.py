# SPDX-License-Identifier: Apache-2.0
"""Under which conditions a report or a benchmark was made."""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import triton

from graphrt._version import __version__
from graphrt.capture import driver

REPOSITORY = Path(__file__).parents[2]
_CLOCKS = (
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "pstate",
    "memory.used",
    "clocks_event_reasons.active",
)


def conditions(device: torch.device, commit: str | None) -> dict[str, Any]:
    """Return what does not change while a report is made; ``commit`` overrides what git says."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "graphrt": __version__,
        "commit": {"hash": commit, "dirty": None} if commit else _git(),
        "source_sha256": source_sha256(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda_bindings": driver.bindings_version(),
        "cuda": {
            "torch": torch.version.cuda,
            "bindings_runtime": _version(driver.runtime_version),
            "driver_supports": _version(driver.driver_version),
        },
        "machine": f"{platform.system()} {platform.machine()}",
        "gpu": _gpu(device),
    }


def clocks(device: torch.device) -> dict[str, str]:
    """Return clocks, power, temperature and throttle reasons as nvidia-smi words them."""
    return query(_CLOCKS, device) if device.type == "cuda" else {}


def query(names: Sequence[str], device: torch.device) -> dict[str, str]:
    """Ask nvidia-smi. What it cannot answer becomes its error; the others still come."""
    uuid = torch.cuda.get_device_properties(device).uuid
    fields = ",".join(names)
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", f"--id=GPU-{uuid}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return dict.fromkeys(names, f"{type(error).__name__}: {error}")
    values = [value.strip() for value in answer.stdout.split(",")]
    if answer.returncode == 0 and len(values) == len(names):
        return dict(zip(names, values, strict=True))
    if len(names) == 1:
        return {names[0]: answer.stdout.strip() or answer.stderr.strip()}
    # One unknown name spoils the whole answer, and drivers rename them.
    return {key: value for name in names for key, value in query([name], device).items()}


def gpu_slug(device: torch.device) -> str:
    """Return the device's name as a part of a file's: ``h200``, ``cpu``."""
    if device.type != "cuda":
        return device.type
    name = torch.cuda.get_device_name(device).lower()
    return re.sub("[^a-z0-9]+", "-", name).strip("-").removeprefix("nvidia-")


def source_sha256() -> str:
    """Return a digest of the sources that measure, which git may not be there to name."""
    digest = hashlib.sha256()
    folders = (REPOSITORY / "graphrt", REPOSITORY / "tools" / "gpu")
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        digest.update(f"{path.relative_to(REPOSITORY)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _gpu(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"name": None}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": f"sm_{properties.major}{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        **query(["driver_version"], device),
    }


def _git() -> dict[str, Any]:
    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    if not (REPOSITORY / ".git").exists():  # installed: what git finds above is not graphrt's
        return {"hash": None, "dirty": None}
    status = git("status", "--porcelain")
    return {
        "hash": git("rev-parse", "--verify", "HEAD"),
        "dirty": None if status is None else bool(status),
    }


def _version(read: Any) -> str | None:
    version = read()
    return None if version is None else "{}.{}".format(*version)
