# SPDX-License-Identifier: Apache-2.0
"""What explains a time and costs no timing: facts of the kernels that were launched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_known: dict[str, dict[str, Any]] = {}
_audited: dict[frozenset[str], dict[str, Any]] = {}


def static_of(compiled: Iterable[Any]) -> dict[str, Any]:
    """Return the static facts of compiled Triton kernels by name; those of each are read once.

    What cannot be read, for want of the disassembler say, is named with its reason: no time is lost
    for it.
    """
    found: dict[str, Any] = {}
    for kernel in compiled:
        if kernel is None:  # interpreted
            continue
        name = str(kernel.metadata.name)
        key = str(kernel.metadata.hash)
        if key not in _known:
            _known[key] = _read(kernel)
        found[name] = _known[key]
    return dict(sorted(found.items()))


def races_of(compiled: Iterable[Any]) -> dict[str, Any]:
    """Return what the audit of PDL links holds against the chain's kernels, by stage.

    A stage is linked where its kernel was compiled for a programmatic launch. What cannot be
    audited is named with its reason; kernels that are no stage of the chain are left out. The same
    kernels are audited once.
    """
    present = [kernel for kernel in compiled if kernel is not None]
    key = frozenset(str(kernel.metadata.hash) for kernel in present)
    if key not in _audited:
        _audited[key] = _audit(present)
    return _audited[key]


def _audit(compiled: Iterable[Any]) -> dict[str, Any]:
    from graphrt.capture.audit.chain import audit_chain
    from graphrt.capture.audit.links import KernelCode
    from graphrt.capture.audit.verdict import Severity
    from graphrt.kernels.links import Last, stages_of

    kernels = {str(k.metadata.name): k for k in compiled}
    whole: Mapping[str, Last] = {"_single_kernel": "single", "_fused_kernel": "fused"}
    present: list[Last] = [last for kernel, last in whole.items() if kernel in kernels]
    last = present[0] if present else "state_update"
    stages = [stage for stage in stages_of(last) if stage.kernel in kernels]
    if not stages:
        return {}
    try:
        codes = {stage.name: KernelCode.of(kernels[stage.kernel]) for stage in stages}
        linked = {name for name, code in codes.items() if code.programmatic}
        verdicts = audit_chain(codes, stages, linked).stages
    except Exception as error:  # a compiler's output of any kind; the times stand without it
        return {"unavailable": f"{type(error).__name__}: {error}"}
    severities = (Severity.RACE, Severity.UNDECIDED)
    found = {
        verdict.stage: [one.sentence for one in verdict.of(*severities)] for verdict in verdicts
    }
    return {stage: sentences for stage, sentences in found.items() if sentences}


def _read(kernel: Any) -> dict[str, Any]:
    from graphrt.kernels.static_facts import static_facts

    try:
        return dict(static_facts(kernel))
    except Exception as error:  # a tool that is missing or new; the times stand without it
        return {"unavailable": f"{type(error).__name__}: {error}"}
