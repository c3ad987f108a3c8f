# SPDX-License-Identifier: Apache-2.0
"""``graphrt info``: versions, GPU, driver, PDL, what a runtime will use, and why.

Every line stands alone: a probe that fails says so and the others still print.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from graphrt.errors import DriverError

Value = str | int | bool


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the report: ``value`` is None where nothing was found, ``note`` says why."""

    name: str
    value: Value | None
    note: str = ""


def main(args: argparse.Namespace) -> int:
    """Print the report, as JSON if ``args.json``; always return 0."""
    facts = collect()
    print(as_json(facts) if args.json else as_text(facts))
    return 0


def collect() -> list[Fact]:
    """Return every fact, in the order of the report. Never raises."""
    return [_guarded(name, probe) for name, probe in _PROBES.items()]


def as_text(facts: list[Fact]) -> str:
    """Return one aligned line a fact: name, value, note in brackets."""
    width = max(len(fact.name) for fact in facts)
    lines = []
    for fact in facts:
        note = f" ({fact.note})" if fact.note else ""
        lines.append(f"{fact.name:<{width}}  {_shown(fact.value)}{note}")
    return "\n".join(lines)


def as_json(facts: list[Fact]) -> str:
    """Return an object: name → {"value", "note"}, value null where nothing was found."""
    return json.dumps(
        {fact.name: {"value": fact.value, "note": fact.note} for fact in facts}, indent=2
    )


def _shown(value: Value | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _guarded(name: str, probe: Callable[[], tuple[Value | None, str]]) -> Fact:
    try:
        value, note = probe()
    except Exception as error:  # the report must print on the machine where nothing else works
        value, note = None, f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Fact(name, value, note)


def _graphrt() -> tuple[Value, str]:
    from graphrt._version import __version__

    return __version__, ""


def _python() -> tuple[Value, str]:
    return platform.python_version(), f"{platform.system()} {platform.machine()}"


def _torch() -> tuple[Value, str]:
    import torch

    cuda = torch.version.cuda
    return torch.__version__, f"built for CUDA {cuda}" if cuda else "CPU build"


def _triton() -> tuple[Value, str]:
    return str(importlib.import_module("triton").__version__), ""


def _cuda_bindings() -> tuple[Value, str]:
    from graphrt.capture import driver

    version = driver.bindings_version()
    try:
        driver.check_bindings(version)
    except DriverError as error:
        return version, str(error)
    return version, ""


def _gpu() -> tuple[Value | None, str]:
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return torch.cuda.get_device_name(), f"1 of {count}" if count > 1 else ""
    if torch.version.cuda is None:
        return None, "this build of torch has no CUDA"
    return None, "torch sees no CUDA device"


def _capability() -> tuple[Value | None, str]:
    import torch

    if not torch.cuda.is_available():
        return None, "no GPU"
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}", ""


def _sm_count() -> tuple[Value | None, str]:
    import torch

    if not torch.cuda.is_available():
        return None, "no GPU"
    return torch.cuda.get_device_properties().multi_processor_count, ""


def _memory_bytes() -> tuple[Value | None, str]:
    import torch

    from graphrt.memory import format_bytes

    if not torch.cuda.is_available():
        return None, "no GPU"
    free, total = torch.cuda.mem_get_info()
    return total, f"{format_bytes(total)}, {format_bytes(free)} free"


def _driver() -> tuple[Value | None, str]:
    if shutil.which("nvidia-smi") is None:
        return None, "nvidia-smi not found"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    return answer.stdout.split()[0], ""


def _driver_cuda() -> tuple[Value | None, str]:
    from graphrt.capture import driver

    version = driver.driver_version()
    if version is None:
        return None, "no NVIDIA driver"
    return "{}.{}".format(*version), "the newest CUDA that the driver supports"


def _interpreter() -> tuple[Value, str]:
    setting = os.environ.get("TRITON_INTERPRET")
    if setting is None:
        return False, "TRITON_INTERPRET is not set: Triton kernels are compiled"
    # Triton's own reading of the variable, whatever spelling it accepts.
    on = bool(importlib.import_module("triton").knobs.runtime.interpret)
    how = "interpreted on the host, for tests" if on else "compiled"
    return on, f"TRITON_INTERPRET={setting}: Triton kernels are {how}"


def _pdl() -> tuple[Value, str]:
    from graphrt.config import resolve_device
    from graphrt.kernels.pdl import pdl_supported

    device = resolve_device(None)
    if device.type != "cuda":
        return False, "no GPU"
    if pdl_supported(device):
        return True, "sm_90 or newer; PdlLinks switches each of three links"
    return False, "needs sm_90 or newer"


def _backend() -> tuple[Value, str]:
    from graphrt.config import resolve_device
    from graphrt.kernels.chain import runs_kernels

    device = resolve_device(None)
    if device.type != "cuda" and runs_kernels(device):
        return "Triton kernels, interpreted on the CPU", "TRITON_INTERPRET is set: for tests"
    if device.type != "cuda":
        return "PyTorch twins on the CPU", "no GPU; capture records the steps, launch runs them"
    return f"Triton kernels in CUDA graphs on {device}", "the default where there is a GPU"


_PROBES: dict[str, Callable[[], tuple[Value | None, str]]] = {
    "graphrt": _graphrt,
    "python": _python,
    "torch": _torch,
    "triton": _triton,
    "cuda-bindings": _cuda_bindings,
    "gpu": _gpu,
    "capability": _capability,
    "sm_count": _sm_count,
    "memory_bytes": _memory_bytes,
    "driver": _driver,
    "driver_cuda": _driver_cuda,
    "pdl": _pdl,
    "interpreter": _interpreter,
    "backend": _backend,
}
