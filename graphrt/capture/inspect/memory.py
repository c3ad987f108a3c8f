# SPDX-License-Identifier: Apache-2.0
"""What lies at an address: a declared buffer, the pool of the capture, other memory, nothing."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from graphrt.capture.inspect.report import Buffer, Pointer, PointsTo

# Below this lies nothing that a kernel can reach, and most numbers that are no addresses.
_LOWEST_ADDRESS = 1 << 20
_HIGHEST_ADDRESS = 1 << 57


class Ranges:
    """Ranges of addresses, each with something to find; they may overlap."""

    def __init__(self, ranges: Iterable[tuple[int, int, Any]]) -> None:
        """Take (first address, bytes, what is there)."""
        self._ranges = sorted((r for r in ranges if r[1] > 0), key=lambda r: (r[0], -r[1]))
        self._starts = [start for start, _, _ in self._ranges]
        self._ends: list[int] = []
        for start, nbytes, _ in self._ranges:
            self._ends.append(max(start + nbytes, self._ends[-1] if self._ends else 0))

    def at(self, address: int) -> list[Any]:
        """Return what lies at ``address``, the range that starts last first."""
        found = []
        index = bisect_right(self._starts, address) - 1
        # No range up to here ends behind the largest end so far.
        while index >= 0 and self._ends[index] > address:
            start, nbytes, what = self._ranges[index]
            if address < start + nbytes:
                found.append(what)
            index -= 1
        return found


class Memory:
    """Names addresses: by declared buffers first, then by the allocator, then by the driver."""

    def __init__(
        self,
        buffers: Sequence[Buffer] = (),
        allocator: Iterable[tuple[int, int, PointsTo]] = (),
        is_device_memory: Callable[[int], bool] = lambda address: False,
    ) -> None:
        """Take buffers with their status, what the allocator holds, and the driver's question."""
        # What a graph was captured with counts before what lies there today.
        self._stale = Ranges((b.address, b.nbytes, b) for b in buffers if b.status != "live")
        self._live = Ranges((b.address_now, b.nbytes, b) for b in buffers if b.address_now)
        self._allocator = Ranges(allocator)
        self._is_device_memory = is_device_memory
        self._asked: dict[int, bool] = {}

    def pointer(self, address: int, at: int = 0) -> Pointer:
        """Return what ``address`` points at; ``at`` is its place in its argument."""
        if not address:
            return Pointer(at, 0, PointsTo.NULL)
        stale, live = self._stale.at(address), self._live.at(address)
        if stale:
            buffer = stale[0]
            return Pointer(
                at,
                address,
                PointsTo.MOVED if buffer.status == "moved" else PointsTo.FREED,
                buffer.name,
                address - buffer.address,
                live[0].name if live else "",
            )
        if live:
            buffer = live[0]
            offset = address - buffer.address_now
            return Pointer(at, address, PointsTo.BUFFER, buffer.name, offset)
        held = self._allocator.at(address)
        if held:
            return Pointer(at, address, held[0])
        known = self._known(address)
        return Pointer(at, address, PointsTo.DEVICE if known else PointsTo.UNKNOWN)

    def pointers(self, value: bytes, type_: str) -> tuple[Pointer, ...]:
        """Return the addresses in an argument of ``type_``, '' where its type is not known.

        A Triton pointer type begins with ``*``. Without a type every aligned word is looked at,
        and is an address if something known lies there.
        """
        if type_.startswith("*"):
            return (self.pointer(int.from_bytes(value, "little")),)
        if type_:
            return ()
        found = []
        for at in range(0, len(value) - 7, 8):
            word = int.from_bytes(value[at : at + 8], "little")
            if _LOWEST_ADDRESS <= word < _HIGHEST_ADDRESS:
                pointer = self.pointer(word, at)
                if pointer.to is not PointsTo.UNKNOWN:
                    found.append(pointer)
        return tuple(found)

    def _known(self, address: int) -> bool:
        if address not in self._asked:
            self._asked[address] = self._is_device_memory(address)
        return self._asked[address]


def allocator_memory(
    pool: object | None, *, unused_only: bool = False
) -> list[tuple[int, int, PointsTo]]:
    """Return what PyTorch's CUDA allocator holds; ``pool`` is the id of the capture's pool.

    unused_only: only blocks of that pool that no tensor uses, which hold a graph's temporaries.

    Memory of another graph's pool that is not in use counts as POOL too: that is how captures leave
    their temporaries. Returns nothing where CUDA is not in use.
    """
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return []
    segments = torch.cuda.memory_snapshot()
    if unused_only:
        return [
            (block["address"], block["size"], PointsTo.POOL)
            for segment in segments
            if tuple(segment["segment_pool_id"]) == pool
            for block in segment["blocks"]
            if block["state"] == "inactive"
        ]
    return segments_memory(segments, pool)


def segments_memory(
    segments: Iterable[Mapping[str, Any]], pool: object | None
) -> list[tuple[int, int, PointsTo]]:
    """Return the ranges of a snapshot's segments, as `allocator_memory` does."""
    ranges = []
    for segment in segments:
        owner = tuple(segment.get("segment_pool_id", (0, 0)))
        private = owner != (0, 0)
        address = segment["address"]
        for block in segment["blocks"]:
            size = block["size"]
            in_use = block["state"].startswith("active")
            if private and (owner == pool or not in_use):
                what = PointsTo.POOL
            else:
                what = PointsTo.ALLOCATED if in_use else PointsTo.RELEASED
            ranges.append((block.get("address", address), size, what))
            address += size
    return ranges
