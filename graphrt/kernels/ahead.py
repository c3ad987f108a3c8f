# SPDX-License-Identifier: Apache-2.0
"""Compiles the chain's kernels for a GPU that is not there, as its launchers would launch them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.experimental.gluon._runtime import GluonASTSource
from triton.runtime.jit import JITFunction

from graphrt.cache import ReplayCache
from graphrt.config import PdlLinks, RuntimeConfig
from graphrt.kernels import advance, conv1d, fused, precompute, single, state_update
from graphrt.kernels.settled import compiler_of
from graphrt.kernels.tensors import LayerInputs, LayerWeights
from graphrt.kernels.tuning import ChainLaunch

_STAGES = {
    "advance": (advance, "_advance_kernel"),
    "conv1d": (conv1d, "_conv1d_kernel"),
    "precompute": (precompute, "_precompute_kernel"),
    "state_update": (state_update, "_state_update_kernel"),
    "fused": (fused, "_fused_kernel"),
    "single": (single, "_single_kernel"),
}

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
        compile_source = compiler_of(self.kernel)
        return compile_source(source, target=GPUTarget("cuda", capability, 32), options=options)

    def key(self) -> str:
        """Return what two launches share when they compile to the same kernel."""
        source, options = self._source()
        return f"{source.hash()} {sorted(options.items())}"

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
        kind = GluonASTSource if self.kernel.is_gluon() else ASTSource
        return kind(self.kernel, signature, constants, attributes), options


def _type_of(value: object) -> str:
    if isinstance(value, Tensor):
        return _POINTERS[value.dtype]
    if isinstance(value, float):
        return "fp32"
    assert isinstance(value, int)
    return "i32" if -(2**31) <= value < 2**31 else "i64"


class _Recorder:
    """Stands where a kernel stands in its module, and keeps what it is launched with."""

    def __init__(self, stage: str, kernel: JITFunction, launches: dict[str, Launch]) -> None:
        self.stage = stage
        self.kernel = kernel
        self.launches = launches

    def __getitem__(self, grid: object) -> Any:
        return self._keep

    def _keep(self, *arguments: Any, **keywords: Any) -> None:
        stage = f"{self.stage}_next" if keywords.get("BEHIND") else self.stage
        self.launches[stage] = Launch(self.kernel, arguments, keywords)


@contextmanager
def recorded() -> Iterator[dict[str, Launch]]:
    """Keep the chain's launches inside the block, by stage, instead of making them.

    For the whole process; a stage launched twice keeps its last launch.
    """
    launches: dict[str, Launch] = {}
    kernels = {stage: getattr(module, name) for stage, (module, name) in _STAGES.items()}
    try:
        for stage, (module, name) in _STAGES.items():
            setattr(module, name, _Recorder(stage, kernels[stage], launches))
        yield launches
    finally:
        for stage, (module, name) in _STAGES.items():
            setattr(module, name, kernels[stage])


def chain_launches(
    config: RuntimeConfig, tokens: int, launch: ChainLaunch, links: PdlLinks
) -> dict[str, Launch]:
    """Return what a launch of T ``tokens`` with the configuration ``launch`` launches, by stage.

    config: on the CPU; one slot is enough, the number of rows changes no kernel. The layer has all
    its weights and no gate, its inputs are contiguous and in the activation dtype.
    """
    shape, dtype = config.shape, config.activation_dtype
    cache = ReplayCache(config)
    slot_ids = torch.zeros(1, dtype=torch.int32)
    inputs = LayerInputs(
        xbc=torch.empty(1, tokens, shape.conv_dim, dtype=dtype),
        dt=torch.empty(1, tokens, shape.heads, dtype=dtype),
    )
    weights = LayerWeights(
        conv_weight=torch.empty(shape.conv_dim, shape.conv_width, dtype=dtype),
        A=torch.empty(shape.heads),
        conv_bias=torch.empty(shape.conv_dim, dtype=dtype),
        dt_bias=torch.empty(shape.heads, dtype=dtype),
        D=torch.empty(shape.heads, dtype=dtype),
    )
    out = torch.empty(1, tokens, shape.heads, shape.head_dim, dtype=dtype)
    layer, scratch = cache.layer(0), cache.scratch(1, tokens)
    stage = (inputs, weights, layer, scratch)
    with recorded() as launches:
        advance.advance(
            slot_ids,
            cache.cursors,
            scratch.row_cursors,
            tokens=tokens,
            window=config.window,
            ring_rows=config.ring_rows,
            conv_rows=config.conv_ring_rows,
            links=links,
        )
        sizes: dict[str, Any] = {"shape": shape, "window": config.window, "links": links}
        stochastic = config.rounding == "stochastic"
        if launch.single is not None:
            sizes |= {"stochastic": stochastic, "launch": launch.single}
            for behind in (False, True):
                single.single(*stage, out, **sizes, behind=behind)
            return launches
        conv1d.conv1d(*stage, links=links, launch=launch.conv1d)
        if launch.fused is not None:
            fused.fused(*stage, out, **sizes, stochastic=stochastic, launch=launch.fused)
        else:
            precompute.precompute(*stage, **sizes, launch=launch.precompute)
            state_update.state_update(
                *stage, out, **sizes, stochastic=stochastic, launch=launch.state_update
            )
    return launches
