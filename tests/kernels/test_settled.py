# SPDX-License-Identifier: Apache-2.0
"""Triton's key of a kernel does not depend on what was compiled before it in the process."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

# Compiles every kernel of graphrt, in order or from the last to the first, but for Triton's part.
_KEYS = """
import importlib, json, pkgutil, sys, types
import triton
from triton.runtime.jit import JITFunction
from graphrt.kernels.settled import compiler_of

def compile(source, target=None, options=None, _env_vars=None):
    return source.fn.cache_key

triton.compile = compile
kernels = {}
for package in map(importlib.import_module, ("graphrt.kernels", "graphrt.bench.yardsticks")):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, JITFunction) and name.endswith("_kernel"):
                kernels[name] = value
order = list(kernels)[:: int(sys.argv[1])]
keys = {name: compiler_of(kernels[name])(types.SimpleNamespace(fn=kernels[name])) for name in order}
json.dump(keys, sys.stdout)
"""


@cache
def keys(step: int) -> dict[str, str]:
    """Return the keys by kernel, from a process that makes them in order or, -1, in reverse."""
    asked = [sys.executable, "-c", _KEYS, str(step)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "kernel",
    [
        *("advance", "accept", "conv1d", "precompute", "state_update", "fused", "single"),
        *("moves", "read", "empty", "snapshots", "winner"),
    ],
)
def test_the_key_of_a_kernel_is_the_same_whatever_came_before(kernel: str) -> None:
    forward, backward = keys(1), keys(-1)
    assert len(forward) == len(backward) == 12
    assert forward[f"_{kernel}_kernel"] == backward[f"_{kernel}_kernel"]
