# SPDX-License-Identifier: Apache-2.0
"""From what a user passes to a handle that can be read without bringing the process down.

libcuda follows a graph handle without looking: a wrong number is a crash. So before a number is
passed on, memory must be readable there, and look like a graph.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import torch

from graphrt.capture import driver
from graphrt.capture.cuda_graph import CudaGraph
from graphrt.capture.graph import Graph, GraphState
from graphrt.errors import CaptureError, sentence

_HEADER_WORDS = 8
_NOT_A_GRAPH = "pass the cudaGraph_t of a graph of this process that has not been destroyed"


@dataclass(frozen=True, slots=True)
class Handle:
    """A cudaGraph_t, and what the object it came from knows of it.

    pool: the id of the memory pool of the capture. kept: objects that the graph keeps alive.
    """

    graph: int
    pool: object | None = None
    kept: tuple[object, ...] = ()


def handle_of(graph: object) -> Handle:
    """Return the handle of a `CudaGraph`, of a ``torch.cuda.CUDAGraph`` or of a raw cudaGraph_t.

    Raises CaptureError for a graph that is closed, reset, not captured yet, not a CUDA graph or
    kept without its handle, and for a number that is no graph of this process.
    """
    if torch.cuda._is_in_bad_fork():
        raise CaptureError(
            sentence(
                "process",
                os.getpid(),
                "is a fork of the one that uses CUDA, and graphs stay with that one",
                "inspect in the process that captured",
            )
        )
    if isinstance(graph, CudaGraph):
        pool = graph.torch_graph.pool()
        return Handle(_checked(graph.raw_graph), tuple(pool), tuple(graph.kept))
    if isinstance(graph, Graph):
        return _refuse_recorded(graph)
    if isinstance(graph, torch.cuda.CUDAGraph):
        return _of_torch(graph)
    if isinstance(graph, int) and not isinstance(graph, bool):
        return Handle(_checked(graph))
    if hasattr(graph, "__int__"):  # cudaGraph_t and CUgraph of cuda-bindings
        return Handle(_checked(int(graph)))
    raise CaptureError(
        sentence(
            "graph",
            type(graph).__name__,
            "must be a captured graph, a torch.cuda.CUDAGraph or a cudaGraph_t",
            "pass one of those",
        )
    )


def _refuse_recorded(graph: Graph) -> Handle:
    if graph.state is GraphState.CLOSED:
        rule, fix = "a closed graph has nothing to read", "inspect before close()"
    else:
        rule = "recorded calls are Python, only CUDA graphs have nodes"
        fix = "inspect on a machine with a GPU, or read a report that was saved there"
    raise CaptureError(sentence(graph.name, graph.state.value, rule, fix))


def _of_torch(graph: torch.cuda.CUDAGraph) -> Handle:
    try:
        raw = int(graph.raw_cuda_graph())
    except (RuntimeError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CaptureError(
            sentence(
                "torch.cuda.CUDAGraph",
                "no handle",
                f"a handle is there after the capture, before reset(), with keep_graph ({reason})",
                "capture with torch.cuda.CUDAGraph(keep_graph=True) and inspect before reset()",
            )
        ) from error
    return Handle(_checked(raw), tuple(graph.pool()))


# --- raw handles ---------------------------------------------------------------------------------


def _checked(graph: int) -> int:
    """Return ``graph`` if it can be read as a graph of this process."""
    if not 0 < graph < 1 << 64:
        raise CaptureError(sentence("graph", graph, "is no handle", _NOT_A_GRAPH))
    words = read_words(graph)
    if words is None:
        raise CaptureError(
            sentence("graph", hex(graph), "points at no memory of this process", _NOT_A_GRAPH)
        )
    for place, word in signature():
        if words[place] != word:
            raise CaptureError(
                sentence("graph", hex(graph), "points at something else than a graph", _NOT_A_GRAPH)
            )
    return graph


def read_words(address: int, count: int = _HEADER_WORDS) -> list[int] | None:
    """Return ``count`` 8-byte words at ``address``, None where this process cannot read them."""
    # Asking for the words is not enough: /proc/self/mem also reads what is mapped without any
    # rights, as the addresses of device memory are, and libcuda would crash there.
    if not _readable(address, 8 * count):
        return None
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            data = os.pread(memory.fileno(), 8 * count, address)
    except (OSError, OverflowError, ValueError):
        return None
    if len(data) != 8 * count:
        return None
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]


@cache
def signature() -> tuple[tuple[int, int], ...]:
    """Return which words at the head of every graph are the same, as (place, word).

    Taken from two graphs made for it: words of both that point into libcuda itself, which is where
    objects of C++ say what they are. Nothing if this driver has none.
    """
    graphs = [driver.create_graph() for _ in range(2)]
    try:
        heads = [read_words(graph) for graph in graphs]
    finally:
        for graph in graphs:
            driver.destroy_graph(graph)
    first, second = heads
    if first is None or second is None:
        return ()
    return tuple(common_words(first, second, _libcuda()))


def common_words(
    first: list[int], second: list[int], library: Iterable[range]
) -> Iterable[tuple[int, int]]:
    """Yield (place, word) of the words that both have and that point into ``library``."""
    areas = list(library)
    for place, (one, other) in enumerate(zip(first, second, strict=True)):
        if one == other and any(one in area for area in areas):
            yield place, one


def _readable(address: int, nbytes: int) -> bool:
    """Return whether this process may read ``nbytes`` at ``address``."""
    end = address + nbytes
    for area, rights, _ in _areas():
        if address in area and rights.startswith("r"):
            if end <= area.stop:
                return True
            address = area.stop  # areas that adjoin may be read across
    return False


def _libcuda() -> list[range]:
    """Return the address ranges of libcuda in this process."""
    return [area for area, _, name in _areas() if "libcuda.so" in name]


def _areas() -> Iterator[tuple[range, str, str]]:
    """Yield (addresses, rights, what is mapped) of this process's memory, by address."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            place, rights, *_ = line.split(maxsplit=2)
            start, end = (int(part, 16) for part in place.split("-"))
            yield range(start, end), rights, line
