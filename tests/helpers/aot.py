# SPDX-License-Identifier: Apache-2.0
"""Compiles the chain's kernels for a GPU that is not there, as its launchers would launch them."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.jit import JITFunction

from graphrt.cache import ReplayCache
from graphrt.config import PdlLinks
from graphrt.kernels import advance, conv1d, precompute, state_update
from graphrt.kernels.chain import BoundChain
from tests.helpers.cases import Case

STAGES = {
    "advance": (advance, "_advance_kernel"),
    "conv1d": (conv1d, "_conv1d_kernel"),
    "precompute": (precompute, "_precompute_kernel"),
    "state_update": (state_update, "_state_update_kernel"),
}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

_POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@dataclass(frozen=True)
class Launch:
    """One recorded launch: the kernel, its arguments by position, its constants and options."""

    kernel: JITFunction
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def compile(self, capability: int) -> CompiledKernel:
        """Compile for ``sm_<capability>``, specialised on the arguments as a launch would be."""
        source, options = self._source()
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)

    def arguments_left(self) -> list[str]:
        """Return the names of the arguments that are no constants once compiled, in order."""
        signature = self._source()[0].signature
        return [name for name, type_ in signature.items() if type_ != "constexpr"]

    def _source(self) -> tuple[ASTSource, dict[str, Any]]:
        """Return what Triton compiles, and the options it compiles it with."""
        names = self.kernel.arg_names
        values = dict(zip(names, self.arguments, strict=False))
        values |= {name: value for name, value in self.keywords.items() if name in names}
        options = {name: value for name, value in self.keywords.items() if name not in names}
        signature, constants, attributes = {}, {}, {}
        for index, parameter in enumerate(self.kernel.params):
            value = values[parameter.name]
            special = not parameter.do_not_specialize
            constant = parameter.is_constexpr or value is None
            if constant or (special and isinstance(value, int) and value == 1):
                signature[parameter.name] = "constexpr"
                constants[index,] = value
                continue
            signature[parameter.name] = _type_of(value)
            aligned = value.data_ptr() if isinstance(value, Tensor) else value
            if special and isinstance(aligned, int) and aligned % 16 == 0:
                attributes[index,] = [["tt.divisibility", 16]]
        return ASTSource(self.kernel, signature, constants, attributes), options


def _type_of(value: object) -> str:
    if isinstance(value, Tensor):
        return _POINTERS[value.dtype]
    if isinstance(value, float):
        return "fp32"
    assert isinstance(value, int)
    return "i32" if -(2**31) <= value < 2**31 else "i64"


class _Recorder:
    """Stands where a kernel stands in its module, and keeps what it is launched with."""

    def __init__(self, kernel: JITFunction) -> None:
        self.kernel = kernel
        self.launches: list[Launch] = []

    def __getitem__(self, grid: object) -> Any:
        return lambda *args, **kwargs: self.launches.append(Launch(self.kernel, args, kwargs))


def recorded_launches(case: Case, links: PdlLinks, bucket: int) -> dict[str, Launch]:
    """Return what one launch of ``case``'s chain launches, by stage. Nothing is computed."""
    cache = ReplayCache(case.config("cpu"))
    slot_ids = torch.full((bucket,), -1, dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        recorders = {}
        for stage, (module, name) in STAGES.items():
            recorders[stage] = _Recorder(getattr(module, name))
            patch.setattr(module, name, recorders[stage])
        chain = BoundChain(cache, slot_ids, case.tokens)
        patch.setattr(chain, "_use_kernels", True)
        patch.setattr(chain, "_links", links)
        chain.advance()
        chain.layer(
            0,
            case.inputs([True] * bucket, case.tokens, generator),
            case.weights(generator),
            case.empty_out(bucket, case.tokens, "cpu"),
        )
    return {stage: recorder.launches[0] for stage, recorder in recorders.items()}


def disassemble(compiled: CompiledKernel) -> str:
    """Return the SASS of ``compiled``."""
    return _run_tool("nvdisasm", ["-c"], compiled.asm["cubin"])


def resource_usage(compiled: CompiledKernel) -> dict[str, int]:
    """Return cuobjdump's REG, STACK, SHARED, LOCAL and so on of ``compiled``."""
    printed = _run_tool("cuobjdump", ["--dump-resource-usage"], compiled.asm["cubin"])
    line = next(line for line in printed.splitlines() if "REG:" in line)
    pairs = (item.split(":") for item in line.split() if ":" in item)
    return {name: int(value) for name, value in pairs if value.isdigit()}


def _run_tool(tool: str, options: list[str], cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [TOOLS / tool, *options, file.name], capture_output=True, text=True, check=True
        )
    return done.stdout
