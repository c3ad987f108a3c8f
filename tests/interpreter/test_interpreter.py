# SPDX-License-Identifier: Apache-2.0
"""The path that runs here is the interpreter: otherwise every test in this folder says nothing."""

import importlib
import pkgutil

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

import graphrt.kernels


@triton.jit
def _double_kernel(x, out, SIZE: tl.constexpr):
    offsets = tl.arange(0, SIZE)
    tl.store(out + offsets, 2.0 * tl.load(x + offsets))


def test_a_kernel_runs_without_a_gpu() -> None:
    x, out = torch.arange(8.0), torch.empty(8)
    _double_kernel[(1,)](x, out, SIZE=8)
    assert torch.equal(out, 2 * x)


def test_every_kernel_of_graphrt_is_interpreted() -> None:
    interpreted = []
    for info in pkgutil.walk_packages(graphrt.kernels.__path__, "graphrt.kernels."):
        for name, value in vars(importlib.import_module(info.name)).items():
            assert not isinstance(value, JITFunction), f"{info.name}.{name} is compiled"
            if isinstance(value, InterpretedFunction):
                interpreted.append(name)
    assert interpreted
