# SPDX-License-Identifier: Apache-2.0
"""Waits and signals along every path of a kernel.

Per instruction, the numbers of waits that may lie behind it on paths from the entry, as a set of
bits: NEVER alone is surely before the wait, no NEVER is surely after one.
"""

from __future__ import annotations

from collections.abc import Collection

from graphrt.capture.audit.ptx import ENDS, Function, Instruction, forward

NEVER, ONCE, TWICE = 1, 2, 4  # counting ends at two, so that loops come to an end

_WAIT, _SIGNAL = "griddepcontrol.wait", "griddepcontrol.launch_dependents"

_NO_END = ("bra", "brx", "trap")


class Paths:
    """What lies behind each instruction of a function: waits and signals, as sets of counts."""

    def __init__(self, function: Function) -> None:
        """Follow every path of ``function``."""
        self.function = function
        self.waits = forward(function, NEVER, lambda counts, i: _counted(counts, i, _WAIT))
        self.signals = forward(function, NEVER, lambda counts, i: _counted(counts, i, _SIGNAL))
        self.wait_instructions = self._reached(_WAIT)
        self.signal_instructions = self._reached(_SIGNAL)

    def exits(self) -> list[int]:
        """Return the instructions that a path may end at: returns, and the end of the text."""
        last = len(self.function.instructions) - 1
        return [
            index
            for index, instruction in enumerate(self.function.instructions)
            if self.waits[index]
            and (
                instruction.has(*ENDS)
                or (index == last and (instruction.predicate or not instruction.has(*_NO_END)))
            )
        ]

    def after(self, first: Collection[int], second: Collection[int]) -> list[int]:
        """Return those of ``second`` that some path reaches after one of ``first``."""
        number = {id(i): index for index, i in enumerate(self.function.instructions)}
        behind = forward(
            self.function, 1, lambda state, i: 2 | state if number[id(i)] in first else state
        )
        return [index for index in second if behind[index] & 2]

    def parting(self, exit_index: int, *, signals: bool = False) -> int | None:
        """Return the last branch of a path to this exit from which a wait could be reached.

        signals: ask for signals instead of waits. None where no such branch exists.
        """
        instructions = self.function.instructions
        opcode = _SIGNAL if signals else _WAIT
        marks = {index for index, i in enumerate(instructions) if i.has(opcode) and not i.predicate}
        path = self._path(exit_index, marks)
        hopeful = self._leading_to({i for i, one in enumerate(instructions) if one.has(opcode)})
        branches = [
            index
            for index in path
            if any(successor in hopeful for successor in instructions[index].successors)
            and (len(instructions[index].successors) > 1 or index == exit_index)
        ]
        return branches[-1] if branches else None

    def _reached(self, opcode: str) -> list[int]:
        return [
            index
            for index, instruction in enumerate(self.function.instructions)
            if instruction.has(opcode) and self.waits[index]
        ]

    def _path(self, target: int, avoided: set[int]) -> list[int]:
        """Return a path of instructions from the entry to ``target`` around ``avoided``."""
        came: dict[int, int] = {0: -1}
        todo = [0]
        for index in todo:
            if index in avoided:
                continue
            for successor in self.function.instructions[index].successors:
                if successor not in came:
                    came[successor] = index
                    todo.append(successor)
        path = [target] if target in came else []
        while path and came[path[-1]] >= 0:
            path.append(came[path[-1]])
        return path[::-1]

    def _leading_to(self, marks: set[int]) -> set[int]:
        """Return the instructions from which one of ``marks`` can be reached, these included."""
        found, grown = set(marks), True
        while grown:
            grown = False
            for index in range(len(self.function.instructions) - 1, -1, -1):
                successors = self.function.instructions[index].successors
                if index not in found and any(s in found for s in successors):
                    found.add(index)
                    grown = True
        return found


def _counted(counts: int, instruction: Instruction, opcode: str) -> int:
    if not instruction.has(opcode):
        return counts
    more = (counts << 1 | counts & TWICE) & (NEVER | ONCE | TWICE)
    return more | counts if instruction.predicate else more
