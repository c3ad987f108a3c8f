# SPDX-License-Identifier: Apache-2.0
"""Names of what a Triton kernel was launched with, from the compiled kernel where it is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from graphrt.capture.driver_nodes import FunctionFacts
from graphrt.capture.inspect.report import Function, Parameter

HIDDEN = ("global_scratch", "profile_scratch")
"""The pointers that Triton adds behind a kernel's own parameters, zero where they are not used."""

_OPTIONS = ("num_warps", "num_stages", "num_ctas", "launch_pdl", "launch_cooperative_grid")


class KnownKernels:
    """Compiled Triton kernels, found by the CUfunction that a node launches."""

    def __init__(self, kernels: Iterable[object]) -> None:
        """Take whatever may be a compiled kernel; other objects are passed over."""
        self._kernels: dict[int, Any] = {}
        for kernel in kernels:
            if is_compiled_kernel(kernel):
                self._kernels[int(kernel.function)] = kernel

    def __getitem__(self, function: int) -> Any:
        """Return the compiled kernel behind a CUfunction, None where it is not known."""
        return self._kernels.get(function)

    def describe(self, function: int, facts: FunctionFacts) -> Function:
        """Return a function with names, where its kernel is known and fits what the driver says."""
        kernel = self._kernels.get(function)
        names = argument_types(kernel) if kernel is not None else {}
        count = len(facts.layout)
        known = kernel is not None and count in (len(names), len(names) + len(HIDDEN))
        return Function(
            facts.name,
            facts.registers,
            facts.local_bytes,
            facts.static_shared_bytes,
            facts.max_threads,
            facts.binary_version,
            tuple(_parameters(facts.layout, names if known else {})),
            _source(kernel) if kernel is not None else "",
            constexprs(kernel) if kernel is not None else {},
            _options(kernel) if kernel is not None else {},
        )


def is_compiled_kernel(value: object) -> TypeGuard[Any]:
    """Return whether ``value`` is a Triton kernel that was compiled and loaded."""
    return (
        isinstance(getattr(value, "function", None), int)
        and hasattr(value, "metadata")
        and isinstance(getattr(getattr(value, "src", None), "signature", None), Mapping)
    )


def argument_types(kernel: Any) -> dict[str, str]:
    """Return the type of every argument that is passed at launch, in order: ``*bf16``, ``i32``."""
    return {
        name: type_
        for name, type_ in kernel.src.signature.items()
        if isinstance(type_, str) and type_ != "constexpr"
    }


def constexprs(kernel: Any) -> dict[str, str]:
    """Return every argument that the compiler took as a constant, with its value."""
    names = list(kernel.src.signature)
    found = {}
    for key, value in (getattr(kernel.src, "constants", None) or {}).items():
        place = key[0] if isinstance(key, tuple) and len(key) == 1 else key
        name = names[place] if isinstance(place, int) and place < len(names) else str(place)
        found[name] = str(value)
    return found


def _parameters(layout: Sequence[tuple[int, int]], names: Mapping[str, str]) -> Iterable[Parameter]:
    own = list(names.items())
    for index, (offset, size) in enumerate(layout):
        if index < len(own):
            yield Parameter(offset, size, *own[index])
        elif own:
            yield Parameter(offset, size, HIDDEN[index - len(own)], "*", True)
        else:
            yield Parameter(offset, size)


def _options(kernel: Any) -> dict[str, str]:
    metadata = kernel.metadata
    return {name: str(getattr(metadata, name)) for name in _OPTIONS if hasattr(metadata, name)}


def _source(kernel: Any) -> str:
    """Return ``file.py:line`` of the kernel's definition, without the folder."""
    function = getattr(kernel.src, "fn", None)
    code = getattr(getattr(function, "fn", None), "__code__", None)
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}" if code is not None else ""
