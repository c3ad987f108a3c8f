# SPDX-License-Identifier: Apache-2.0
"""Node handles in the driver's own drawing of a graph, which shows the bodies of conditional nodes.

Drivers before 13.1 have no call that returns those bodies, but draw them, handles and all.
"""

from __future__ import annotations

import re

_NODE = re.compile(r'^\s*"graph_(\d+)_node_(\d+)"\s*\[(.*?)\];\s*$', re.MULTILINE | re.DOTALL)
_CONDITION = re.compile(r"Conditional Type\s*\|\s*(\w+)")
_HANDLE = re.compile(r"node handle.*?(0x[0-9a-fA-F]+)", re.DOTALL)


def bodies(text: str) -> dict[int, list[int]]:
    """Return the handles of the nodes of every graph drawn in ``text``, by the graph's number.

    The graph that was drawn comes first. Nodes without a handle in the text are left out.
    """
    found: dict[int, dict[int, int]] = {}
    for graph, node, label in _NODE.findall(text):
        handle = _HANDLE.search(label)
        if handle is not None:
            found.setdefault(int(graph), {})[int(node)] = int(handle[1], 16)
    return {
        graph: [handle for _, handle in sorted(nodes.items())]
        for graph, nodes in sorted(found.items())
    }


def conditions(text: str) -> dict[int, str]:
    """Return the kind of every conditional node in ``text`` by its handle: ``while``, ``if`` …"""
    found = {}
    for _, _, label in _NODE.findall(text):
        handle, condition = _HANDLE.search(label), _CONDITION.search(label)
        if handle is not None and condition is not None:
            found[int(handle[1], 16)] = condition[1].lower()
    return found
