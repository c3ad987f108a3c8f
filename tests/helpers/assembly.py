# SPDX-License-Identifier: Apache-2.0
"""What a compiled kernel does before and after its PDL wait, read from its PTX and its SASS.

PTX still names the kernel's arguments, so each access can be traced to its tensor; SASS is what
runs. Both are followed along every path of their control flow: an instruction's ``waits`` are the
numbers of waits that may lie behind it, {0} being surely before the wait and {1} surely after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from triton.compiler import CompiledKernel

MANY = 2  # waits are counted up to here, so that loops come to an end


@dataclass
class Instruction:
    """One instruction: its text without label, where it may go next, what may lie behind it."""

    text: str
    successors: list[int] = field(default_factory=list)
    waits: set[int] = field(default_factory=set)

    @property
    def opcode(self) -> str:
        """Return the opcode with its suffixes, without the predicate."""
        words = self.text.split()
        return words[1] if self.predicated else words[0]

    def has(self, *opcodes: str) -> bool:
        """Return whether the opcode is or extends one of ``opcodes``."""
        return any(self.opcode == name or self.opcode.startswith(f"{name}.") for name in opcodes)

    @property
    def predicated(self) -> bool:
        """Return whether a predicate decides if it is executed."""
        return self.text.startswith("@")


@dataclass(frozen=True)
class Access:
    """A load or store of global memory in PTX: the argument it points into, width and waits."""

    kind: str  # load or store
    argument: str
    nbytes: int
    waits: frozenset[int]


def ptx_instructions(compiled: CompiledKernel) -> list[Instruction]:
    """Return the instructions of the kernel's PTX, with their waits."""
    body = compiled.asm["ptx"].split(".entry", 1)[1].split("{", 1)[1]
    lines = (line.split("//")[0].strip() for line in body.splitlines())
    lines = [line for line in lines if line and not line.startswith(("{", "}", "."))]
    return _follow(
        lines,
        label=re.compile(r"^(\$\w+):$"),
        target=re.compile(r"\bbra(?:\.uni)?\s+(\$\w+)"),
        ends=("ret", "exit"),
        wait=lambda instruction: instruction.has("griddepcontrol.wait"),
        refused=("brx", "call"),
    )


def sass_instructions(sass: str) -> list[Instruction]:
    """Return the instructions of a kernel's SASS, with their waits."""
    lines = []
    for line in sass.splitlines():
        if label := re.match(r"^(\.L_x_\d+):", line):
            lines.append(f"{label[1]}:")
        elif instruction := re.match(r"^\s+/\*[0-9a-f]+\*/\s+(.*?)\s*;", line):
            lines.append(instruction[1])
    return _follow(
        lines,
        label=re.compile(r"^(\.L_x_\d+):$"),
        target=re.compile(r"\bBRA\b.*`\((\.L_x_\d+)\)"),
        ends=("EXIT",),
        wait=lambda instruction: instruction.has("ACQBULK"),
        refused=("BRX", "JMP", "JMX", "CALL", "RET"),
    )


def _follow(
    lines: list[str],
    *,
    label: re.Pattern[str],
    target: re.Pattern[str],
    ends: tuple[str, ...],
    wait: Callable[[Instruction], bool],
    refused: tuple[str, ...],
) -> list[Instruction]:
    """Return the instructions among ``lines`` with successors and waits filled in."""
    made: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in lines:
        if named := label.match(line):
            labels[named[1]] = len(made)
        else:
            made.append(Instruction(line.rstrip(";").strip()))
    for index, instruction in enumerate(made):
        assert not instruction.has(*refused), f"unknown jump: {instruction.text}"
        jump = target.search(instruction.text)
        ended = instruction.has(*ends)
        conditional = instruction.predicated or bool(re.search(r"BRA\S*\s+!?U?P", instruction.text))
        if jump:
            instruction.successors.append(labels[jump[1]])
        if (not jump and not ended) or conditional:
            instruction.successors.append(index + 1)
    made[0].waits = {0}
    todo = [0]
    while todo:
        instruction = made[todo.pop()]
        after = instruction.waits
        if wait(instruction):
            assert not instruction.predicated, "a wait that not every thread makes"
            after = {min(count + 1, MANY) for count in after}
        for successor in instruction.successors:
            if not after <= made[successor].waits:
                made[successor].waits |= after
                todo.append(successor)
    return made


def waits_at_exit(instructions: list[Instruction]) -> set[int]:
    """Return the numbers of waits that a path through the whole kernel may make."""
    exits = [i for i in instructions if i.has("EXIT", "ret", "exit") and i.waits]
    return set().union(*(instruction.waits for instruction in exits))


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
    pattern = re.compile(r"\b(ld|st)\.global(?:\.\w+)*?(?:\.v(\d))?\.[busf](\d+)\b.*\[ ?(%rd\d+)")
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
        else:
            assert not re.search(r"\.global\b|cp\.async", instruction.text), instruction.text
    return found
