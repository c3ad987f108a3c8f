# SPDX-License-Identifier: Apache-2.0
"""A few launches of advance, and what it must leave by row after each of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from graphrt import ring
from graphrt.cache import ReplayCache
from graphrt.kernels.chain import BoundChain
from tests.helpers.cases import BASE, Case
from tests.helpers.contents import WILD

# Rows of a launch: of a warp of advance, of a program, of several.
COUNTS = (32, 33, 64, 65, 200, 600)
MANY = replace(BASE, slots=700, buckets=COUNTS, window=BASE.tokens + 2)  # 3 and 4 held: a flush
# Slots by row, launch after launch: fewer live rows than before, then padding alone; rows that
# change places; a slot that a new request has taken in between, see `advanced`.
LAUNCHES = [[3, 0, 4, 1], [-1, 4, -1, 3], [-1, -1, -1, -1], [4, -1, -1, 0], [0]]
RECYCLED = {3: 4}  # before launch 3, slot 4 is another request


def advanced(device: torch.device | str, case: Case = BASE) -> list[tuple[Tensor, Tensor]]:
    """Return, for every one of LAUNCHES, the rows that advance left and the rows expected.

    All rows of the scratch, of which those beyond the launch's must be as they were: WILD.
    """
    config = case.config(device)
    cache = ReplayCache(config)
    rows = cache.scratch(case.buckets[-1], case.tokens).row_cursors
    cursors: dict[int, ring.SlotCursors] = {}
    seeds: dict[int, int] = {}

    def admit(slot: int, seed: int) -> None:
        cache.admit(slot, None, seed)
        cursors[slot], seeds[slot] = ring.SlotCursors(), seed

    for slot in range(5):
        admit(slot, 2**62 - 7 * slot)
    found = []
    for launch, slots in enumerate(LAUNCHES * 6):
        if launch % len(LAUNCHES) in RECYCLED:
            admit(RECYCLED[launch % len(LAUNCHES)], 1000 * launch)
        rows.fill_(WILD)
        expected = torch.full_like(rows, WILD)
        lines: list[list[int]] = []
        for row, slot in enumerate(slots):
            lines.append([-1, 0, 0, 0, 0, 0, row, 0])
            if slot < 0:
                continue
            before = cursors[slot]
            kept = (launch + slot) % (before.last_tokens + 1)
            cache.cursors.accepted[slot] = kept
            at = ring.advance(
                before, kept, case.tokens, case.window, config.ring_rows, config.conv_ring_rows
            )
            cursors[slot] = at
            seeds[slot] += 1
            lines[-1] = [
                *(slot, at.held, at.ring_start, at.flushed, at.conv_pos, seeds[slot]),
                *(row, 0),
            ]
        expected[: len(lines)] = torch.tensor(in_order(lines))
        slot_ids = torch.tensor(slots, dtype=torch.int32, device=device)
        BoundChain(cache, slot_ids, case.tokens).advance()
        found.append((rows.clone(), expected))
    return found


def advanced_many(device: torch.device | str, count: int) -> tuple[Tensor, Tensor]:
    """Return the same of one launch of ``count`` rows, of which some flush."""
    cache = ReplayCache(MANY.config(device))
    cache.cursors.held.copy_(torch.arange(700) % 5)
    cache.cursors.rand_seed.copy_(torch.arange(700) * 2**40)
    slots = (torch.arange(count) * 11 + 3) % 700
    slots[torch.arange(count) % 9 == 4] = -1
    rows = cache.scratch(count, MANY.tokens).row_cursors
    rows.fill_(WILD)
    BoundChain(cache, slots.to(device, torch.int32), MANY.tokens).advance()
    lines = []
    for row, slot in enumerate(slots.tolist()):
        held = slot % 5
        flushes = held + MANY.tokens > MANY.window
        places = [held, 0, flushes, 0, slot * 2**40 + 1] if slot >= 0 else [0] * 5
        lines.append([slot, *places, row, 0])
    assert in_order(lines) != lines
    return rows, torch.tensor(in_order(lines), dtype=rows.dtype, device=rows.device)


def in_order(lines: list[list[int]]) -> list[list[int]]:
    """Return a launch's lines as advance puts them: of every 64, the two kinds evenly mixed.

    24 that do not flush are left for the end of the launch.
    """
    ordered: list[list[int]] = []
    while lines:
        lines, block = lines[:-64], lines[-64:]
        flushing = [line for line in block if line[3]]
        staying = [line for line in block if not line[3]]
        at_the_end = staying[-24:] if not ordered else []
        staying = staying[: len(staying) - len(at_the_end)]
        whole = (len(flushing), len(staying))
        merged = []
        while flushing or staying:
            taken = (whole[0] - len(flushing), whole[1] - len(staying))
            flush_is_due = (2 * taken[0] + 1) * whole[1] <= (2 * taken[1] + 1) * whole[0]
            merged.append(
                (flushing if flushing and (flush_is_due or not staying) else staying).pop(0)
            )
        ordered = merged + at_the_end + ordered
    return ordered
