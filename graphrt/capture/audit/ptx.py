# SPDX-License-Identifier: Apache-2.0
"""A reader of PTX: the functions of a module, their parameters, instructions and control flow.

Made for the audit of PDL links (`graphrt.capture.audit`). It reads what a compiled Triton kernel
carries in ``asm["ptx"]``, inline assembly and its scopes included, and knows no opcode but the ones
that move control. Source lines come from ``.loc``, with the chain of inlined calls where it is
given, either as PTX's ``inlined_at`` or as LLVM's comment ``// file.py:1:2 @[ caller.py:3:4 ]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from graphrt.errors import CaptureError, sentence

_FILE = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', re.MULTILINE)
_LOC = re.compile(r"\.loc\s+(\d+)\s+(\d+)\s+(\d+)(?:.*?inlined_at\s+(\d+)\s+(\d+))?")
_CALLER = re.compile(r"@\[\s*([^\s@:]+):(\d+):\d+")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_LABEL = re.compile(r"\s*([A-Za-z_$%][\w$]*)\s*")
_FUNCTION = re.compile(r"^[ \t]*(?:\.(?:visible|weak|extern)\s+)*\.(entry|func)\b", re.MULTILINE)
_VARIABLE = re.compile(
    r"^[ \t]*(?:\.(?:visible|weak|extern|common)\s+)*\.(global|const|shared|local)\b"
    r"[^;{=(]*?([A-Za-z_$%][\w$]*)\s*(?:\[[^\]]*\]\s*)*[;={]",
    re.MULTILINE,
)
_NAME = re.compile(r"(?<![\w$.%])[A-Za-z_$%][\w$]*")

ENDS = ("ret", "exit")
_STOPS = ("trap",)  # the whole launch fails here, so no path leads on and none leads to an exit


@dataclass(frozen=True, slots=True)
class Source:
    """A line of source: its file, and ``callers``, innermost first, it was inlined into."""

    file: str
    line: int
    callers: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        """Return ``file.py:1``, or ``file.py:1 (from caller.py:2)`` where it was inlined."""
        at = f"{_base(self.file)}:{self.line or '?'}"
        if not self.callers:
            return at
        return f"{at} (from {', from '.join(f'{_base(f)}:{line}' for f, line in self.callers)})"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter: its name, its bits (0 for a structure) and whether PTX calls it a pointer."""

    name: str
    bits: int
    pointer: bool


@dataclass(slots=True)
class Instruction:
    """One instruction, its guarding predicate ("" for none) and where control may go next.

    ptx_line counts from 1 in the whole text. An instruction that ends the kernel has no successor
    but the next one, if it is predicated.
    """

    opcode: str
    operands: tuple[str, ...]
    predicate: str
    ptx_line: int
    source: Source | None
    successors: tuple[int, ...] = ()

    def has(self, *opcodes: str) -> bool:
        """Return whether the opcode is or extends one of ``opcodes``."""
        return any(self.opcode == name or self.opcode.startswith(f"{name}.") for name in opcodes)

    def __str__(self) -> str:
        """Return the instruction as PTX."""
        guard = f"@{self.predicate} " if self.predicate else ""
        return f"{guard}{self.opcode} {', '.join(self.operands)}".strip()


@dataclass(slots=True)
class Function:
    """A kernel (``entry``) or a device function; variables are those of its body, by space."""

    name: str
    entry: bool
    parameters: tuple[Parameter, ...]
    instructions: list[Instruction] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    def blocks(self) -> list[range]:
        """Return the basic blocks: runs of instructions that are entered and left at their ends."""
        leaders = {0}
        for index, instruction in enumerate(self.instructions):
            if instruction.successors != (index + 1,):
                leaders.update((index + 1, *instruction.successors))
        starts = sorted(index for index in leaders if index < len(self.instructions))
        return [
            range(start, end)
            for start, end in zip(starts, [*starts[1:], len(self.instructions)], strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Module:
    """What a PTX text defines: functions by name, and the state space of each module variable."""

    functions: dict[str, Function]
    variables: dict[str, str]

    def kernel(self, name: str | None = None) -> Function:
        """Return the kernel ``name``, or the only one. Raises CaptureError if there is none."""
        entries = [function for function in self.functions.values() if function.entry]
        found = [function for function in entries if name in (None, function.name)]
        if len(found) != 1:
            raise CaptureError(
                sentence(
                    "kernel",
                    name,
                    f"the PTX defines {', '.join(f.name for f in entries) or 'no kernel'}",
                    "name one of them",
                )
            )
        return found[0]


def read(text: str) -> Module:
    """Return what the PTX ``text`` defines. Raises CaptureError for text that breaks off."""
    text = _COMMENT.sub(lambda comment: re.sub(r"[^\n]", " ", comment[0]), text)
    files = {int(number): path for number, path in _FILE.findall(text)}
    functions: dict[str, Function] = {}
    outside, position = [], 0
    while match := _FUNCTION.search(text, position):
        outside.append(text[position : match.start()])
        function, position = _function(text, match, files)
        if function is not None:
            functions[function.name] = function
    outside.append(text[position:])
    variables = {name: space for part in outside for space, name in _VARIABLE.findall(part)}
    return Module(functions, variables)


def names(operand: str) -> list[str]:
    """Return the registers, parameters and variables that an operand mentions."""
    return _NAME.findall(operand)


def forward(function: Function, start: int, step: Callable[[int, Instruction], int]) -> list[int]:
    """Return per instruction the set, as bits, of what may lie behind it on paths that reach it.

    start: the set at the kernel's entry. step(set, instruction): the set after the instruction.
    Sets meet by union; 0 says that no path reaches the instruction.
    """
    blocks = function.blocks()
    block_of = {block.start: number for number, block in enumerate(blocks)}
    before = [0] * len(function.instructions)
    entering = [0] * len(blocks)
    todo = []
    if blocks:
        entering[0], todo = start, [0]
    while todo:
        number = todo.pop()
        state = entering[number]
        for index in blocks[number]:
            before[index] = state
            state = step(state, function.instructions[index])
        for successor in function.instructions[blocks[number][-1]].successors:
            target = block_of.get(successor)
            if target is not None and state & ~entering[target]:
                entering[target] |= state
                todo.append(target)
    return before


def _base(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _function(
    text: str, match: re.Match[str], files: dict[int, str]
) -> tuple[Function | None, int]:
    """Read the function whose header begins at ``match``; return it and where the text goes on."""
    body, semicolon = text.find("{", match.end()), text.find(";", match.end())
    if body < 0 or 0 <= semicolon < body:  # a declaration
        return None, (semicolon + 1) or len(text)
    header = re.sub(r"//[^\n]*", "", text[match.end() : body])
    # A function's result comes in parentheses before its name.
    named = re.match(r"\s*(?:\([^)]*\)\s*)?([\w$]+)\s*(?:\(([^)]*)\))?", header)
    if named is None:
        raise _broken(text, match.start(), "a function has no name")
    parameters = tuple(_parameter(part) for part in (named[2] or "").split(",") if part.strip())
    function = Function(named[1], match[1] == "entry", parameters)
    end = _Body(text, body + 1, files, function).read()
    return function, end


def _parameter(text: str) -> Parameter:
    words = text.split()
    width = re.search(r"\.[busf](\d+)\b", text)
    bits = int(width[1]) if width and "[" not in text else 0
    return Parameter(words[-1].split("[")[0], bits, ".ptr" in words)


def _broken(text: str, position: int, rule: str) -> CaptureError:
    line = text.count("\n", 0, position) + 1
    return CaptureError(sentence("PTX line", line, rule, "pass the whole text of asm['ptx']"))


class _Body:
    """Reads the statements of one function's body, then ties jumps to their labels."""

    def __init__(self, text: str, start: int, files: dict[int, str], function: Function) -> None:
        self.text, self.start, self.files, self.function = text, start, files, function
        self.labels: dict[str, list[int]] = {}
        self.source: Source | None = None

    def read(self) -> int:
        """Fill the function; return the position after its closing brace."""
        position, depth = self.start, 1
        line = self.text.count("\n", 0, position) + 1
        pending, pending_line = "", line
        for raw in self.text[position:].splitlines(keepends=True):
            if raw.lstrip().startswith(".loc"):
                self._location(raw)
                position, line = position + len(raw), line + 1
                continue
            code = raw.split("//", 1)[0]
            for offset, character in enumerate(code):
                if not pending.strip():
                    pending_line = line
                    if character in "{}":
                        depth += 1 if character == "{" else -1
                        pending = ""
                        if depth == 0:
                            self._connect()
                            return position + offset + 1
                        continue
                if character == ";":
                    self._statement(pending.strip(), pending_line)
                    pending = ""
                elif character == ":" and (label := _LABEL.fullmatch(pending)):
                    at = self.labels.setdefault(label[1], [])
                    at.append(len(self.function.instructions))
                    pending = ""
                else:
                    pending += character
            position, line = position + len(raw), line + 1
        raise _broken(self.text, len(self.text), "the text ends inside a function")

    def _location(self, line: str) -> None:
        found = _LOC.search(line)
        if found is None:
            return
        callers = [(file, int(number)) for file, number in _CALLER.findall(line)]
        if found[4]:
            callers = [(self.files.get(int(found[4]), "?"), int(found[5]))]
        self.source = Source(self.files.get(int(found[1]), "?"), int(found[2]), tuple(callers))

    def _statement(self, statement: str, line: int) -> None:
        if not statement or statement.startswith("."):
            if variable := _VARIABLE.match(statement + ";"):
                self.function.variables[variable[2]] = variable[1]
            return
        words = re.match(r"(?:@(!?[\w$%]+)\s+)?([\w.:$]+)\s*(.*)", statement, re.DOTALL)
        if words is None:
            raise _broken(self.text, self.start, f"{statement!r} is no instruction")
        self.function.instructions.append(
            Instruction(words[2], _operands(words[3]), words[1] or "", line, self.source)
        )

    def _connect(self) -> None:
        instructions = self.function.instructions
        everywhere = sorted({index for found in self.labels.values() for index in found})
        for index, instruction in enumerate(instructions):
            successors: set[int] = set()
            goes_on = not instruction.has("bra", "brx", *ENDS, *_STOPS)
            if goes_on or instruction.predicate:
                successors.add(index + 1)
            if instruction.has("bra"):
                successors.update(self.labels.get(instruction.operands[-1], everywhere))
            elif instruction.has("brx"):  # the table is not read: it may go to any label
                successors.update(everywhere)
            # Falling off the end is an exit.
            instruction.successors = tuple(sorted(s for s in successors if s < len(instructions)))


def _operands(text: str) -> tuple[str, ...]:
    """Split at the commas that lie outside of brackets."""
    parts, depth, part = [], 0, ""
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += character
    return tuple([*parts, part.strip()] if part.strip() else parts)
