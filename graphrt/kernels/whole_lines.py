# SPDX-License-Identifier: Apache-2.0
"""Loads that have L2 fetch whole lines from memory: 128 bytes, where it fetches 64 by itself.

Nearly all that a kernel reads it reads by whole lines in the end; fetched so, a launch takes up to
4 % less, at batch 4 as much (docs/performance.md). PTX says it by a prefetch size behind a load's
opcode, Triton has no word for it. So the PTX that Triton makes of a kernel marked `whole_lines` is
changed before it is assembled, by Triton's hook into its stages. A hint only: what is loaded, and
when, stays as it was.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from triton import knobs
from triton._C.libtriton import get_cache_invalidating_env_vars
from triton.compiler import CompiledKernel

from graphrt.kernels.settled import compile_settled, compiled_by

PREFETCH_SIZE = "L2::128B"

# Loads that say no more than where from, and how much; cp.async.
_LOAD = re.compile(r"\bld\.global(?=(?:\.v[248])?\.[bfsu]\d+\s)")
_COPY = re.compile(r"\bcp\.async\.c[ag]\.shared\.global(?=\s)")

_one_at_a_time = threading.RLock()  # a hook may compile too

Kernel = TypeVar("Kernel")


def whole_lines(kernel: Kernel) -> Kernel:
    """Have ``kernel``, a JITFunction, compiled by `compile_by_lines`; interpreted ones stay."""
    return compiled_by(kernel, compile_by_lines)


def by_lines(ptx: str) -> str:
    """Return ``ptx`` with the prefetch size at every load from global memory that has no hints."""
    return _COPY.sub(rf"\g<0>.{PREFETCH_SIZE}", _LOAD.sub(rf"\g<0>.{PREFETCH_SIZE}", ptx))


def compile_by_lines(
    source: Any,
    target: Any = None,
    options: dict[str, Any] | None = None,
    _env_vars: dict[str, str] | None = None,
) -> CompiledKernel:
    """Compile as `compile_settled` does, with `by_lines` behind the stage that makes PTX."""
    variables = get_cache_invalidating_env_vars() if _env_vars is None else _env_vars
    # Part of what Triton's cache is looked up by: a kernel of its own kind.
    variables = variables | {"GRAPHRT_PREFETCH_SIZE": PREFETCH_SIZE}
    with _stage_added():
        return compile_settled(source, target=target, options=options, _env_vars=variables)


@contextmanager
def _stage_added() -> Iterator[None]:
    """Have what this thread compiles go through `by_lines`, behind a hook that is there already."""
    with _one_at_a_time:
        there, thread = knobs.runtime.add_stages_inspection_hook, threading.get_ident()

        def hook(*backend_stages_and_more: Any) -> Any:
            # Without arguments Triton asks for a key and its hash, from 3.7 on.
            given = there(*backend_stages_and_more) if there is not None else ("", "")
            if backend_stages_and_more and threading.get_ident() == thread:
                _change_ptx(backend_stages_and_more[1])
            return given

        knobs.runtime.add_stages_inspection_hook = hook
        try:
            yield
        finally:
            knobs.runtime.add_stages_inspection_hook = there


def _change_ptx(stages: dict[str, Any]) -> None:
    """Put `by_lines` behind the stage that makes PTX, where there is one."""
    make_ptx = stages.get("ptx")
    if make_ptx is not None:
        stages["ptx"] = lambda source, metadata: by_lines(make_ptx(source, metadata))
