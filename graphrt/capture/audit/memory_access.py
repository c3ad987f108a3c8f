# SPDX-License-Identifier: Apache-2.0
"""What an instruction of PTX does to memory: the one table of opcodes that the audit relies on.

An instruction with a memory operand that the table does not know is an access of kind UNKNOWN, for
the audit to report: a new opcode is never taken for harmless.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from graphrt.capture.audit.ptx import Function, Instruction, Module, names


class Kind(enum.Enum):
    """What an access does. ATOMIC reads and writes, PREFETCH moves lines and reads no value."""

    LOAD = "load"
    STORE = "store"
    ATOMIC = "atomic"
    PREFETCH = "prefetch"
    UNKNOWN = "unknown"

    @property
    def reads(self) -> bool:
        """Whether a value is read, or may be."""
        return self in (Kind.LOAD, Kind.ATOMIC, Kind.UNKNOWN)

    @property
    def writes(self) -> bool:
        """Whether memory is written, or may be."""
        return self in (Kind.STORE, Kind.ATOMIC, Kind.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Touch:
    """How an instruction touches memory that other kernels may see, and the memory of its block.

    kind: None where only registers and ``own`` memory are touched. address: the operand that holds
    the address. descriptor: it is the address of a tensor map, which names the memory in turn.
    coherent: False for a load that promises nothing about writes while the kernel runs. own: the
    memory of a block (shared, local, tensor memory) is read or written too.
    """

    kind: Kind | None = None
    address: str = ""
    descriptor: bool = False
    coherent: bool = True
    own: bool = False


NOTHING = Touch()
_OWN = Touch(own=True)
OWN_SPACES = ("shared", "local")

# Opcodes that address the memory of a block or cluster alone, or registers behind a descriptor.
_OWN_OPCODES = (
    "ldmatrix",
    "stmatrix",
    "mbarrier",
    "wgmma",
    "tcgen05",
    "clusterlaunchcontrol",
    "st.async",
    "st.bulk",
    "red.async",
    "mapa",
    "getctarank",
)
_NO_ACCESS = ("createpolicy", "applypriority", "cvta", "isspacep", "griddepcontrol")
_PLAIN = {
    "ld": Kind.LOAD,
    "ldu": Kind.LOAD,
    "st": Kind.STORE,
    "atom": Kind.ATOMIC,
    "red": Kind.ATOMIC,
    "discard": Kind.STORE,
}


def touch(instruction: Instruction, function: Function, module: Module) -> Touch:
    """Return how ``instruction`` touches memory."""
    words = instruction.opcode.replace("::", "_").split(".")
    memory = [operand for operand in instruction.operands if "[" in operand]
    if instruction.has(*_OWN_OPCODES) and "global" not in words:
        return _OWN
    if words[0] == "cp":
        return _copy(instruction, words, memory)
    if not memory or instruction.has(*_NO_ACCESS):
        return NOTHING
    if words[0] in ("prefetch", "prefetchu"):
        return Touch(Kind.PREFETCH, memory[0], descriptor="tensormap" in words)
    kind = _PLAIN.get(words[0])
    if kind is None and words[0] == "wmma":
        kind = {"load": Kind.LOAD, "store": Kind.STORE}.get(words[1])
    if kind is None:  # textures, surfaces, tensormap.replace, whatever comes next
        return Touch(Kind.UNKNOWN, memory[0], own=True)
    if any(word.startswith(space) for word in words[1:] for space in OWN_SPACES):
        return _OWN
    if any(word.startswith("param") for word in words):
        return _parameter(memory[0], function)
    if "const" in words:
        return NOTHING
    own = "global" not in words and _is_own(memory[0], function, module)
    if own:
        return _OWN
    return Touch(kind, memory[0], coherent="nc" not in words, own="global" not in words)


def _copy(instruction: Instruction, words: list[str], memory: list[str]) -> Touch:
    """Asynchronous copies: from their issue on they may read and write at any time."""
    bulk, tensor = "bulk" in words, "tensor" in words
    if "prefetch" in words:
        return Touch(Kind.PREFETCH, memory[0], descriptor=tensor)
    spaces = [word.split("_")[0] for word in words if word.split("_")[0] in ("global", "shared")]
    if not memory or "global" not in spaces:
        return _OWN
    if not bulk and words[1] != "async":  # cp.reduce.async.bulk is bulk
        return Touch(Kind.UNKNOWN, memory[0], own=True)
    if spaces[0] == "shared":
        return Touch(Kind.LOAD, memory[1], descriptor=tensor, own=True)
    kind = Kind.ATOMIC if "reduce" in words else Kind.STORE
    return Touch(kind, memory[0], descriptor=tensor, own=True)


def _parameter(address: str, function: Function) -> Touch:
    """The parameters of the kernel are constant; those of a call pass values on."""
    known = {parameter.name for parameter in function.parameters}
    return NOTHING if known & set(names(address)) else _OWN


def _is_own(address: str, function: Function, module: Module) -> bool:
    """Whether a generic address is written as one of the block's variables."""
    spaces = [function.variables.get(name) or module.variables.get(name) for name in names(address)]
    return any(space in OWN_SPACES for space in spaces)
