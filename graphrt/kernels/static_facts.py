# SPDX-License-Identifier: Apache-2.0
"""What can be known of a compiled kernel without running it.

Registers, shared memory, spills; and what it does on either side of its PDL wait, by opcode: global
loads and stores with their widths, matrix products, exponentials, barriers, instructions in all.
"""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

from triton.compiler import CompiledKernel

from graphrt.kernels.assembly import Instruction, resource_usage, sass_instructions

Facts: TypeAlias = dict[str, dict[str, int]]
"""Counts by section. ``resources`` and ``order`` are always there; ``before_wait`` and
``after_wait`` where the kernel waits, ``body`` where it does not, ``either_side`` for instructions
that some paths reach before the wait and others after it."""

# The start of every opcode that is counted by itself, with all its suffixes.
_GLOBAL_MEMORY = ("LDG", "STG", "LDGSTS", "ATOM", "ATOMG", "RED", "REDG", "UTMALDG", "UTMASTG")
_PRODUCTS = ("HMMA", "HGMMA", "QGMMA", "IMMA", "IGMMA", "UTCHMMA", "UTCQMMA", "UTCIMMA")
_COUNTED = (*_GLOBAL_MEMORY, *_PRODUCTS, "BAR", "MUFU.EX2")


def static_facts(compiled: CompiledKernel) -> Facts:
    """Return the facts of ``compiled``, which `graphrt.kernels.ahead` compiles without a GPU."""
    usage = resource_usage(compiled)
    # What no path leads to is padding.
    code = [instruction for instruction in sass_instructions(compiled) if instruction.waits]
    facts = {
        "resources": {
            "registers": usage["REG"],
            "stack_bytes": usage["STACK"] + usage["LOCAL"],
            "spill_loads": sum(i.has("LDL") for i in code),
            "spill_stores": sum(i.has("STL") for i in code),
            "shared_bytes": compiled.metadata.shared,
        },
        "order": _order(code),
    }
    sections: dict[str, Counter[str]] = {}
    for instruction in code:
        name = _section(instruction, facts["order"]["waits"] > 0)
        counts = sections.setdefault(name, Counter())
        counts["instructions"] += 1
        if instruction.has(*_COUNTED):
            counts[instruction.opcode] += 1
    for name in ("body", "before_wait", "after_wait", "either_side"):
        if name in sections:
            facts[name] = dict(sorted(sections[name].items()))
    return facts


def _order(code: list[Instruction]) -> dict[str, int]:
    """Return the numbers of waits and signals, and of accesses that stand before the signal."""
    signals = [index for index, instruction in enumerate(code) if instruction.has("PREEXIT")]
    before = code[: signals[0]] if signals else []
    return {
        "waits": sum(i.has("ACQBULK") for i in code),
        "signals": len(signals),
        "accesses_before_signal": sum(i.has(*_GLOBAL_MEMORY) for i in before),
    }


def _section(instruction: Instruction, has_wait: bool) -> str:
    if not has_wait:
        return "body"
    names: dict[tuple[int, ...], str] = {(0,): "before_wait", (1,): "after_wait"}
    return names.get(tuple(sorted(instruction.waits)), "either_side")


def differences(was: Facts, now: Facts) -> list[str]:
    """Return one line for each fact that is not what it was.

    Spills, stack, the widths and sides of global accesses, waits and signals are *broken* by a
    difference: a kernel computes the same with them, only slower or by luck. Others have *changed*.
    """
    broken: list[str] = []
    changed: list[str] = []
    for section in was | now:
        old, new = was.get(section, {}), now.get(section, {})
        for fact in old | new:
            before, after = old.get(fact, 0), new.get(fact, 0)
            if before != after:
                lines = broken if _is_guarded(section, fact) else changed
                lines.append(f"{section} {fact}: was {before}, is {after}")
    return [f"broken: {line}" for line in broken] + [f"changed: {line}" for line in changed]


def _is_guarded(section: str, fact: str) -> bool:
    if section == "resources":
        return fact.startswith(("stack", "spill"))
    return section == "order" or fact.split(".")[0] in _GLOBAL_MEMORY
