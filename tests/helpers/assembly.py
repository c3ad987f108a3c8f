# SPDX-License-Identifier: Apache-2.0
"""Which tensor every access in a kernel's PTX goes to: PTX still names the kernel's arguments."""

from __future__ import annotations

import re
from dataclasses import dataclass

from triton.compiler import CompiledKernel

from graphrt.kernels.assembly import ptx_instructions


@dataclass(frozen=True)
class Access:
    """A load or store of global memory in PTX: the argument it points into, width and waits."""

    kind: str  # load or store
    argument: str
    nbytes: int
    waits: frozenset[int]


def accesses(compiled: CompiledKernel, arguments: list[str]) -> list[Access]:
    """Return every access to global memory in the kernel's PTX.

    arguments: the names of the kernel's arguments that are not compile-time constants, in order. An
    address is traced through every 64-bit register it is computed from to the pointer arguments
    loaded into them; it must come from exactly one.
    """
    instructions = ptx_instructions(compiled)
    sources: dict[str, set[str]] = {}
    roots: dict[str, set[str]] = {}
    for instruction in instructions:
        text = instruction.text
        if loaded := re.search(r"ld\.param\.[bu]64\s+(%rd\d+), \[\w+_param_(\d+)\]", text):
            name = arguments[int(loaded[2])]
            if name.endswith("_ptr"):
                roots.setdefault(loaded[1], set()).add(name)
        elif not instruction.has("ld", "st", "ld.global", "ld.shared"):
            registers = re.findall(r"%rd\d+", text)
            if registers:
                sources.setdefault(registers[0], set()).update(registers[1:])
    changed = True
    while changed:
        changed = False
        for register, computed_from in sources.items():
            reached = set().union(*(roots.get(source, set()) for source in computed_from))
            if not reached <= roots.get(register, set()):
                roots.setdefault(register, set()).update(reached)
                changed = True
    found = []
    pattern = re.compile(
        r"\b(ld|st)\.global(?:\.[\w:]+)*?(?:\.v(\d))?\.[busf](\d+)\b.*\[ ?(%rd\d+)"
    )
    for instruction in instructions:
        if access := pattern.search(instruction.text):
            kind, vector, width, register = access.groups()
            pointed = roots.get(register, set())
            assert len(pointed) == 1, f"{instruction.text}: points into {sorted(pointed)}"
            found.append(
                Access(
                    "load" if kind == "ld" else "store",
                    next(iter(pointed)),
                    int(vector or 1) * int(width) // 8,
                    frozenset(instruction.waits),
                )
            )
        elif copy := re.search(
            r"cp\.async\.c[ag]\.shared\.global\S* \[.*\[ ?(%rd\d+).*, 0x(\w+)", instruction.text
        ):
            pointed = roots.get(copy[1], set())
            assert len(pointed) == 1, f"{instruction.text}: points into {sorted(pointed)}"
            waits = frozenset(instruction.waits)
            found.append(Access("load", next(iter(pointed)), int(copy[2], 16), waits))
        elif "prefetch.global.L2" not in instruction.text:  # which is no access
            assert not re.search(r"\.global\b", instruction.text), instruction.text
    return found
