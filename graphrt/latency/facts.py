# SPDX-License-Identifier: Apache-2.0
"""What explains a time and costs no timing: static facts of the kernels that were launched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from graphrt.kernels.compiled import Compiled

_known: dict[str, dict[str, Any]] = {}


def static_of(compiled: Iterable[Compiled]) -> dict[str, Any]:
    """Return the static facts of compiled Triton kernels by name; those of each are read once.

    What cannot be read, for want of the disassembler say, is named with its reason: no time is lost
    for it.
    """
    found: dict[str, Any] = {}
    for kernel in compiled:
        if kernel is None:  # interpreted
            continue
        name = str(kernel.metadata.name)  # type: ignore[attr-defined]  # a CompiledKernel
        key = str(kernel.metadata.hash)  # type: ignore[attr-defined]
        if key not in _known:
            _known[key] = _read(kernel)
        found[name] = _known[key]
    return dict(sorted(found.items()))


def _read(kernel: Any) -> dict[str, Any]:
    from graphrt.kernels.static_facts import static_facts

    try:
        return dict(static_facts(kernel))
    except Exception as error:
        return {"unavailable": f"{type(error).__name__}: {error}"}
