# SPDX-License-Identifier: Apache-2.0
"""A compiled kernel's instructions, and which of them stand before and after its PDL wait.

PTX and SASS are followed along every path of their control flow: an instruction's ``waits`` are the
numbers of waits that may lie behind it, {0} being surely before the wait and {1} surely after it.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import triton
from triton.compiler import CompiledKernel

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

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


def ptx_instructions(compiled: CompiledKernel) -> list[Instruction]:
    """Return the instructions of the kernel's PTX, with their waits."""
    body = compiled.asm["ptx"].split(".entry", 1)[1].split("{", 1)[1]
    lines = (line.split("//")[0].strip() for line in body.splitlines())
    return _follow(
        [line for line in lines if line and not line.startswith(("{", "}", "."))],
        label=re.compile(r"^(\$\w+):$"),
        target=re.compile(r"\bbra(?:\.uni)?\s+(\$\w+)"),
        ends=("ret", "exit"),
        wait=lambda instruction: instruction.has("griddepcontrol.wait"),
        refused=("brx", "call"),
    )


def sass_instructions(compiled: CompiledKernel) -> list[Instruction]:
    """Return the instructions of the kernel's SASS, with their waits.

    What no path leads to, the padding at the end, has no waits at all.
    """
    lines = []
    for line in _run_tool("nvdisasm", ["-c"], compiled.asm["cubin"]).splitlines():
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
        if instruction.has(*refused):
            raise ValueError(f"unknown jump: {instruction.text}")
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
            if instruction.predicated:
                raise ValueError(f"a wait that not every thread makes: {instruction.text}")
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


def resource_usage(compiled: CompiledKernel) -> dict[str, int]:
    """Return cuobjdump's REG, STACK, SHARED, LOCAL and so on of ``compiled``."""
    printed = _run_tool("cuobjdump", ["--dump-resource-usage"], compiled.asm["cubin"])
    line = next(line for line in printed.splitlines() if "REG:" in line)
    pairs = (item.split(":") for item in line.split() if ":" in item)
    return {name: int(value) for name, value in pairs if value.isdigit()}


def _run_tool(tool: str, options: list[str], cubin: bytes) -> str:
    """Return what one of the tools in Triton's wheel prints about ``cubin``."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [_TOOLS / tool, *options, file.name], capture_output=True, text=True, check=True
        )
    return done.stdout
