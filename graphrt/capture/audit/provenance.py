# SPDX-License-Identifier: Apache-2.0
"""Which arguments of a kernel an address can come from, and which loads it was computed from.

Every register holds a `Value`: the roots (pointer parameters and variables) whose address may have
flowed into it, and the loads of global memory whose data may have. Values flow through every
instruction, over loops and through the moves that stand for phis; each register has one value for
the whole kernel, the union over all places that write it. The memory of a block (shared, local and
tensor memory, parameters of calls) is one cell: what is stored anywhere in it may be loaded
anywhere from it. So a value can name too many roots, never too few. An address that was loaded, or
made of numbers, has none and can point anywhere; where it may take the place of one that has a
root, the result is not decided either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from graphrt.capture.audit.memory_access import OWN_SPACES, Kind, Touch, touch
from graphrt.capture.audit.ptx import Function, Instruction, Module, names


@dataclass(frozen=True, slots=True)
class Value:
    """What may have flowed into a register.

    roots, loads: sets as bits, over `Provenance.roots` and the numbers of instructions. perhaps:
    loads whose data went into the block's memory, and may have been what was read back. mixed: it
    may point outside of its roots, since two addresses were combined by arithmetic, or since it may
    be a value without any.
    """

    roots: int = 0
    loads: int = 0
    perhaps: int = 0
    mixed: bool = False

    def __or__(self, other: Value) -> Value:
        """Return what either may hold."""
        return Value(
            self.roots | other.roots,
            self.loads | other.loads,
            self.perhaps | other.perhaps,
            self.mixed or other.mixed,
        )

    def data(self) -> Value:
        """Return what remains when no address can pass: the loads."""
        return Value(0, self.loads, self.perhaps)


@dataclass(frozen=True, slots=True)
class Access:
    """An access to memory outside the block: where it is, what it does, and whence its address.

    arguments: the numbers of the kernel's parameters that the address may come from. variables:
    module variables it may come from. decided: False where it may point elsewhere too. loads: the
    numbers of the instructions whose loaded data the address was computed from. perhaps: those
    whose data it may have been computed from, by way of the block's memory.
    """

    index: int
    instruction: Instruction
    touch: Touch
    kind: Kind
    arguments: tuple[int, ...]
    variables: tuple[str, ...]
    decided: bool
    loads: tuple[int, ...]
    perhaps: tuple[int, ...]


@dataclass(slots=True)
class _Flow:
    """One instruction as an equation: its results are the union of what it is made of."""

    results: list[str]
    terms: list[str]  # operands that an address can flow through
    taints: list[str]  # operands whose data matters, an address does not pass through them
    constant: Value
    choice: bool  # one of the terms is taken, they are not combined
    own: bool  # the block's own memory is read into the results, and written
    bare: bool = False  # one of the terms is a number or was loaded
    holds_no_address: bool = False  # too narrow, or of a type that holds none


_NO_RESULT = (
    "st",
    "red",
    "stmatrix",
    "cp",
    "bra",
    "brx",
    "ret",
    "exit",
    "trap",
    "bar",
    "barrier",
    "fence",
    "membar",
    "prefetch",
    "prefetchu",
    "griddepcontrol",
    "setmaxnreg",
    "nanosleep",
)
_NO_ADDRESS = re.compile(r"\.(?:f16|f32|f64|bf16|f16x2|bf16x2|f32x2|tf32|pred|[bus]8|[bus]16)\b")
_NUMBER = re.compile(r"-?\d")
_CHOICES = ("mov", "selp", "slct", "min", "max", "shfl", "cvta", "cvt", "ld", "movmatrix")
_OWN = " own "  # no register is called this


@dataclass(slots=True)
class Provenance:
    """The values of a kernel's registers, once `solve` has run."""

    module: Module
    function: Function
    roots: list[str] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    touches: list[Touch] = field(default_factory=list)

    def solve(self) -> None:
        """Let values flow until none changes."""
        parameters = self.function.parameters
        pointers = [p for p in parameters if p.pointer or p.bits == 0]
        if not any(p.pointer for p in parameters):  # PTX that does not say which are pointers
            pointers = [p for p in parameters if p.bits in (0, 64)]
        variables = {**self.module.variables, **self.function.variables}
        self.roots = [*(p.name for p in pointers), *variables]
        for number, name in enumerate(self.roots):
            self.values[name] = Value(roots=1 << number)
        plain = {p.name for p in parameters} - set(self.roots)
        self.values.update((name, Value()) for name in plain)
        fixed = set(self.values)
        self.touches = [
            touch(instruction, self.function, self.module)
            for instruction in self.function.instructions
        ]
        flows = [self._flow(index) for index in range(len(self.touches))]
        # Which registers hold addresses is known only once all have been followed.
        for roots_known in (False, True):
            while any([self._flows(flow, fixed, roots_known) for flow in flows]):
                pass

    def _flows(self, flow: _Flow, fixed: set[str], roots_known: bool) -> bool:
        """Let values flow through one instruction; return whether anything changed."""
        made = self._evaluate(flow, roots_known)
        results = [name for name in flow.results if name not in fixed]
        changed = False
        for name in [*results, *([_OWN] if flow.own else [])]:
            old = self.values.get(name)
            new = made if old is None else old | made
            if roots_known and new.roots and not made.roots:
                new = replace(new, mixed=True)
            if new != old:
                self.values[name] = new
                changed = True
        return changed

    def accesses(self) -> list[Access]:
        """Return the accesses to memory outside the block, in the order of the text."""
        found = []
        for index, touched in enumerate(self.touches):
            if touched.kind is None:
                continue
            address, _, coordinates = touched.address.partition("{")
            value = Value()
            for name in names(address):
                value = _add(value, self.values.get(name, Value()))
            for name in names(coordinates):
                value |= self.values.get(name, Value()).data()
            rooted = [name for bit, name in enumerate(self.roots) if value.roots >> bit & 1]
            spaces = {name: self._space(name) for name in rooted}
            if touched.own and rooted and all(s in OWN_SPACES for s in spaces.values()):
                continue  # a generic address into the block's own memory
            numbers = {p.name: n for n, p in enumerate(self.function.parameters)}
            arguments = tuple(sorted(numbers[name] for name in rooted if name in numbers))
            variables = tuple(name for name in rooted if spaces[name] in ("global", "const"))
            decided = bool(arguments or variables) and not value.mixed
            if touched.descriptor:  # only a map that is itself the argument names its memory
                by_value = {n for n in arguments if self.function.parameters[n].bits == 0}
                decided = decided and by_value == set(arguments) and not variables
            instruction = self.function.instructions[index]
            found.append(
                Access(
                    index,
                    instruction,
                    touched,
                    touched.kind,
                    arguments,
                    variables,
                    decided and touched.kind is not Kind.UNKNOWN,
                    _bits(value.loads),
                    _bits(value.perhaps & ~value.loads),
                )
            )
        return found

    def _space(self, name: str) -> str:
        return self.function.variables.get(name) or self.module.variables.get(name) or "param"

    def _flow(self, index: int) -> _Flow:
        instruction, touched = self.function.instructions[index], self.touches[index]
        head = instruction.opcode.split(".")[0]
        operands = list(instruction.operands)
        results: list[str] = []
        if head == "call":
            # What a call may do is the audit's to report; its result may be made of anything.
            results = names(operands[0]) if operands[0].startswith("(") else []
            passed = names(" ".join(operands[1:]))
            return _Flow(results, passed, [], Value(), choice=True, own=True, bare=True)
        if head not in _NO_RESULT and operands and "[" not in operands[0]:
            results = names(operands.pop(0))
        taints = [instruction.predicate.lstrip("!")] if instruction.predicate else []
        if head in ("selp", "slct") and operands:
            taints += names(operands.pop())
        if head == "shfl":  # only the first operand moves
            taints += names(" ".join(operands[1:]))
            del operands[1:]
        memory = [operand for operand in operands if "[" in operand]
        terms = [name for operand in operands if "[" not in operand for name in names(operand)]
        if head == "ld" and "param" in instruction.opcode and not touched.own:
            terms = names(memory[0])
        else:  # where data was loaded from says something about it, it is no address in it
            taints += [name for operand in memory for name in names(operand)]
        reads = touched.kind is not None and touched.kind.reads
        narrow = _NO_ADDRESS.search(instruction.opcode) is not None
        return _Flow(
            results,
            terms,
            taints,
            constant=Value(loads=1 << index) if reads else Value(),
            choice=head in _CHOICES or bool(memory),
            own=touched.own,
            bare=reads or any(_NUMBER.match(operand) for operand in operands),
            holds_no_address=narrow and head not in ("ldmatrix", "stmatrix"),
        )

    def _evaluate(self, flow: _Flow, roots_known: bool) -> Value:
        made = flow.constant
        values = [self.values.get(name, Value()) for name in flow.terms]
        for value in values:
            made = made | value if flow.choice else _add(made, value)
        if flow.own:
            cell = self.values.get(_OWN, Value())
            made = made | Value(cell.roots, 0, cell.loads | cell.perhaps, cell.mixed)
        if roots_known and flow.choice and made.roots:
            bare = flow.bare or any(not value.roots for value in values)
            made = replace(made, mixed=made.mixed or bare)
        data = made.data()
        for name in flow.taints:
            data |= self.values.get(name, Value()).data()
        return data if flow.holds_no_address else made | data


def _add(left: Value, right: Value) -> Value:
    """Return the result of arithmetic on both."""
    union = left | right
    mixed = union.mixed or bool(left.roots and right.roots)
    return Value(union.roots, union.loads, union.perhaps, mixed)


def _bits(mask: int) -> tuple[int, ...]:
    return tuple(bit for bit in range(mask.bit_length()) if mask >> bit & 1)
