# SPDX-License-Identifier: Apache-2.0
"""What makes a graph the same graph: everything but addresses, and what compilers may choose.

A pointer counts as the buffer and offset it names. Where it names none it counts as what it points
into: pools are laid out anew by every capture. A structure counts by the pointers in it, as the
rest may be padding that nobody wrote.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from graphrt.capture.inspect.report import Argument, MemorySide, Node, Parameter, Pointer, Report

_WORD = 8
# A word without a type that nothing known lies at may still be an address: they start about here.
_LIKE_AN_ADDRESS = 1 << 40
_SHORT = 12


def fingerprint(report: Report) -> str:
    """Return 64 hex digits that equal graphs share, wherever their buffers lie.

    Counts: kernels by name, with constants; grids, blocks, shared memory, attributes; arguments;
    copies and fills; edges with ports and types; bodies. Does not count: addresses, the report's
    name, findings, versions, registers and occupancy, buffers that no node points at.
    """
    lines = [
        (
            [facts(report, node) | {"bodies": str(node.bodies)} for node in body.nodes],
            sorted((e.source, e.target, e.from_port, e.to_port, e.type) for e in body.edges),
        )
        for body in report.bodies
    ]
    text = json.dumps(lines, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def short_fingerprint(report: Report) -> str:
    """Return the first digits of `fingerprint`, for people."""
    return fingerprint(report)[:_SHORT]


def facts(report: Report, node: Node) -> dict[str, str]:
    """Return what counts of a node, by what it is called: ``grid``, ``argument x_ptr`` …"""
    found = {"kind": node.kind, "what": report.title(node)}
    if node.kernel is not None:
        launch = node.kernel
        function = report.functions[launch.function]
        found |= {f"constant {name}": value for name, value in sorted(function.constexprs.items())}
        found |= {f"option {name}": value for name, value in sorted(function.options.items())}
        found |= {
            "grid": _sizes(launch.grid),
            "block": _sizes(launch.block),
            "shared bytes": str(launch.shared_bytes),
            "cluster": _sizes(launch.cluster),
            "cooperative": str(launch.cooperative),
            "priority": str(launch.priority),
            "parameters": " ".join(str(p.size) for p in function.parameters),
        }
        for index, (argument, parameter) in enumerate(
            zip(launch.arguments, function.parameters, strict=False)
        ):
            name = f"argument {parameter.name or index}"
            found |= {name + place: value for place, value in shown(argument, parameter).items()}
    if node.copy is not None:
        copy = node.copy
        found |= {"source": _side(copy.source), "target": _side(copy.target)}
        found["bytes"] = _sizes((copy.width_bytes, copy.height, copy.depth))
    if node.fill is not None:
        fill = node.fill
        found["target"] = _side(fill.target)
        found["fill"] = str(fill.value)
        found["elements"] = f"{_sizes((fill.width, fill.height))} of {fill.element_bytes} bytes"
    if node.allocation is not None:
        found["memory"] = named(node.allocation.pointer)
    return found


def shown(argument: Argument, parameter: Parameter) -> dict[str, str]:
    """Return an argument without its addresses, by place: ``""``, or ``" @16"`` in a structure.

    ``state + 0`` or ``128``; of a structure its size, and every pointer in it.
    """
    if len(argument.value) == 2 * _WORD and argument.pointers:
        return {"": named(argument.pointers[0])}
    if len(argument.value) > 2 * _WORD:
        inside = {f" @{pointer.at}": named(pointer) for pointer in argument.pointers}
        return {"": f"structure of {parameter.size} bytes"} | inside
    if not parameter.type and argument.number >= _LIKE_AN_ADDRESS:
        return {"": "a large number"}
    return {"": str(argument.number)}


def named(pointer: Pointer) -> str:
    """Return the buffer and offset that a pointer names, or else what it points into."""
    if not pointer.buffer:
        return pointer.to.value
    return str(pointer)


def _side(side: MemorySide) -> str:
    return f"{side.memory} {named(side.pointer)}, pitch {side.pitch_bytes}"


def _sizes(sizes: tuple[int, ...]) -> str:
    return str(sizes)


def differences(old: dict[str, str], new: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield (what, before, after) of all that facts differ in; — for what is not there."""
    for key in {**old, **new}:
        before, after = old.get(key, "—"), new.get(key, "—")
        if before != after:
            yield key, before, after
