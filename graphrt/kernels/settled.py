# SPDX-License-Identifier: Apache-2.0
"""Triton's key of a kernel, the same whatever was compiled before it.

By its key Triton finds a compiled kernel in its cache, in later processes too. Up to Triton 3.7 the
key of a function says which constants the functions that it calls use, but only those whose own
keys were there already (mended by Triton's pull request 10494): a process that begins with another
kernel compiled the rest anew, a second and more each. Where callees come first none is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, TypeVar

import triton
from triton.compiler import CompiledKernel
from triton.runtime.jit import JITCallable, JITFunction

Kernel = TypeVar("Kernel")


def settled(kernel: Kernel) -> Kernel:
    """Have ``kernel``, a JITFunction, compiled by `compile_settled`; interpreted ones stay."""
    return compiled_by(kernel, compile_settled)


def compile_settled(
    source: Any,
    target: Any = None,
    options: dict[str, Any] | None = None,
    _env_vars: dict[str, str] | None = None,
) -> CompiledKernel:
    """Compile as `triton.compile` does, once the kernel's key is settled."""
    settle(source.fn)
    return triton.compile(source, target=target, options=options, _env_vars=_env_vars)


def settle(function: JITCallable) -> None:
    """Make the keys of all that ``function`` calls, callees first, then its own."""
    _settle(function, set())


def compiled_by(kernel: Kernel, compile_source: Callable[..., CompiledKernel]) -> Kernel:
    """Have ``kernel``, a JITFunction, compiled by ``compile_source``; interpreted ones stay."""
    if isinstance(kernel, JITFunction):
        prepare = kernel.device_caches.default_factory

        def prepared() -> Any:
            caches = prepare()  # sets what it compiles with anew
            kernel.compile = compile_source
            return caches

        kernel.device_caches = defaultdict(prepared)
        kernel.compile = compile_source
    return kernel


def compiler_of(kernel: JITFunction) -> Callable[..., CompiledKernel]:
    """Return what compiles ``kernel``'s source, for a GPU that need not be there."""
    found: Callable[..., CompiledKernel] = getattr(kernel, "compile", triton.compile)
    return found


def _settle(function: JITCallable, met: set[int]) -> None:
    met.add(id(function))  # one may call itself; its hash is its key
    for name in _names(function.fn.__code__):
        callee = function.fn.__globals__.get(name)
        if isinstance(callee, JITCallable) and id(callee) not in met:
            _settle(callee, met)
    assert function.cache_key


def _names(code: CodeType) -> Iterator[str]:
    """Yield the global names that ``code`` and what is nested in it look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
