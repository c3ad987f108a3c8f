# SPDX-License-Identifier: Apache-2.0
"""What a graph holds, as plain data: the report that everything else is made from.

A `Report` is complete in itself: trees, pages, diffs and fingerprints need no GPU and no graph.
`graphrt.capture.inspect.schema` writes and reads it as JSON; a field added, removed or renamed here
is a new SCHEMA. Bytes are little-endian hex, addresses are ints, sizes carry their unit.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

SCHEMA = 1

Dim3: TypeAlias = tuple[int, int, int]


class PointsTo(enum.Enum):
    """What an address points at."""

    BUFFER = "buffer"  # a declared buffer, alive and where it was declared
    MOVED = "moved"  # where a declared buffer was, which lies elsewhere now
    FREED = "freed"  # where a declared buffer was, which is gone
    POOL = "pool"  # the memory pool of the capture: temporaries of the graph
    ALLOCATED = "allocated"  # memory in use that nobody declared
    RELEASED = "released"  # memory the allocator holds, in use by nothing
    DEVICE = "device"  # memory only the driver knows
    NULL = "null"
    UNKNOWN = "unknown"  # nothing known

    @property
    def stale(self) -> bool:
        """Whether a kernel that follows such a pointer reads or writes what is not its own."""
        return self in (PointsTo.MOVED, PointsTo.FREED, PointsTo.RELEASED, PointsTo.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Pointer:
    """An address inside an argument, ``at`` bytes from the argument's start, and what it is in.

    buffer: the declared buffer for BUFFER, MOVED and FREED; offset_bytes counts from its start.
    now: the declared buffer that lies there today, where a moved or freed one was.
    """

    at: int
    address: int
    to: PointsTo
    buffer: str = ""
    offset_bytes: int = 0
    now: str = ""

    def __str__(self) -> str:
        """Return ``state + 4096`` or ``freed: state + 0``."""
        if not self.buffer:
            return self.to.value if self.to is PointsTo.NULL else f"{self.to.value} memory"
        place = f"{self.buffer} + {self.offset_bytes}"
        if self.to is PointsTo.BUFFER:
            return place
        return f"{self.to.value}: {place}" + (f", now {self.now}" if self.now else "")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a kernel: where it lies, and its name and type where they are known.

    hidden: added by Triton's compiler behind the kernel's own parameters.
    """

    offset: int
    size: int
    name: str = ""
    type: str = ""
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    """A kernel function that nodes launch. constexprs and options: of a known Triton kernel."""

    name: str
    registers: int
    local_bytes: int
    static_shared_bytes: int
    max_threads: int
    binary_version: int
    parameters: tuple[Parameter, ...]
    source: str = ""
    constexprs: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Argument:
    """The value of one parameter: its bytes, and the addresses found in them."""

    value: str
    pointers: tuple[Pointer, ...] = ()

    @property
    def number(self) -> int:
        """The value as an unsigned integer."""
        return int.from_bytes(bytes.fromhex(self.value), "little")


@dataclass(frozen=True, slots=True)
class KernelLaunch:
    """What a kernel node launches; ``function`` is an index into the report's functions.

    shared_bytes: dynamic. occupancy: warps that one multiprocessor holds at a time as a fraction
    of the most it can; -1 where that is not known.
    """

    function: int
    grid: Dim3
    block: Dim3
    shared_bytes: int
    occupancy: float
    arguments: tuple[Argument, ...]
    cluster: Dim3 = (0, 0, 0)
    cooperative: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class MemorySide:
    """One side of a copy or a memset: kind of memory, pitch, and what is there."""

    memory: str
    pointer: Pointer
    pitch_bytes: int = 0


@dataclass(frozen=True, slots=True)
class MemoryCopy:
    """A memcpy node: ``depth`` planes of ``height`` rows of ``width_bytes``."""

    source: MemorySide
    target: MemorySide
    width_bytes: int
    height: int
    depth: int


@dataclass(frozen=True, slots=True)
class MemoryFill:
    """A memset node: ``height`` rows of ``width`` elements of ``element_bytes``."""

    target: MemorySide
    value: int
    element_bytes: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Node:
    """One node. id: its place in its graph. bodies: indices of the graphs inside it.

    note: what there is to say beside it, such as the kind of a conditional node.
    """

    id: int
    kind: str
    kernel: KernelLaunch | None = None
    copy: MemoryCopy | None = None
    fill: MemoryFill | None = None
    allocation: MemorySide | None = None
    bodies: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """``target`` starts after ``source``; both are ids of nodes of the same graph.

    from_port and type are CUDA's: (0, 0) full, (1, 1) programmatic, (2, 1) on launch completion.
    """

    source: int
    target: int
    from_port: int = 0
    to_port: int = 0
    type: int = 0

    @property
    def programmatic(self) -> bool:
        """Whether the target may start before the source has completed."""
        return self.type == 1


@dataclass(frozen=True, slots=True)
class Body:
    """A graph: the one inspected, or one inside a node. Nodes are in the order of capture."""

    name: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True, slots=True)
class Buffer:
    """A declared buffer, and whether it is still where it was: ``live``, ``moved`` or ``freed``.

    address: at declaration, which is what the graph was captured with. address_now: today's, 0 if
    freed. nbytes: from the first byte to the last, gaps of strides included.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    padding: str
    address: int
    nbytes: int
    status: str = "live"
    address_now: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know, worst first: ``error``, ``warning`` or ``note``.

    body, node: where, -1 for the graph as a whole. argument: its name or index. buffer: its name.
    """

    severity: str
    rule: str
    sentence: str
    body: int = 0
    node: int = -1
    argument: str = ""
    buffer: str = ""

    def __str__(self) -> str:
        """Return one line."""
        return f"{self.severity}: {self.sentence}"


@dataclass(frozen=True, slots=True)
class Report:
    """A graph as it was when it was inspected. bodies[0] is the graph itself.

    made_with: versions, GPU and driver, by name. seconds: what inspecting took.
    """

    name: str
    bodies: tuple[Body, ...]
    functions: tuple[Function, ...]
    buffers: tuple[Buffer, ...]
    findings: tuple[Finding, ...]
    made_with: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def walk(self) -> Iterator[tuple[int, Node]]:
        """Yield every node with the index of its body, the graph's own first."""
        for index, body in enumerate(self.bodies):
            for node in body.nodes:
                yield index, node

    def title(self, node: Node) -> str:
        """Return what a node is called: its kernel's name, or its kind."""
        if node.kernel is None:
            return f"{node.kind} {node.note}".strip()
        return self.functions[node.kernel.function].name

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that say that the graph is wrong."""
        return tuple(finding for finding in self.findings if finding.severity == "error")
