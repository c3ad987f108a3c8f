# SPDX-License-Identifier: Apache-2.0
"""Which slots are taken, and what each one's last launch was: the host's side of a slot's life."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from graphrt.errors import SlotError, sentence


class SlotTable:
    """Free and admitted slots of one runtime. Pure Python; the lowest free slot is given first."""

    def __init__(self, slots: int) -> None:
        """Start with every slot free."""
        self._slots = slots
        self._free = list(range(slots))
        self._last_tokens: dict[int, int] = {}

    def __contains__(self, slot: int) -> bool:
        """Return whether ``slot`` is admitted."""
        return slot in self._last_tokens

    def take(self) -> int:
        """Return a free slot, now admitted. Raises SlotError when all are taken."""
        if not self._free:
            raise SlotError(
                sentence(
                    "slots",
                    self._slots,
                    "every slot is admitted",
                    "release one first or configure more slots",
                )
            )
        slot = heapq.heappop(self._free)
        self._last_tokens[slot] = 0
        return slot

    def give_back(self, slot: int) -> None:
        """Free ``slot``. Raises SlotError unless it is admitted."""
        self.check([slot])
        del self._last_tokens[slot]
        heapq.heappush(self._free, slot)

    def launched(self, slots: Sequence[int], tokens: int) -> None:
        """Note that ``slots`` were launched with ``tokens`` tokens each."""
        self._last_tokens.update(dict.fromkeys(slots, tokens))

    def last_tokens(self, slot: int) -> int:
        """Return the tokens of the slot's last launch, 0 before its first."""
        return self._last_tokens[slot]

    def check(self, slots: Sequence[int]) -> None:
        """Raise SlotError unless every slot is in range, admitted, and named once."""
        for slot in slots:
            if isinstance(slot, bool) or not isinstance(slot, int):
                raise SlotError(
                    sentence("slot", repr(slot), "must be an int", "pass what admit() returned")
                )
            if not 0 <= slot < self._slots:
                raise SlotError(
                    sentence(
                        "slot", slot, f"must be 0 … {self._slots - 1}", "pass what admit() returned"
                    )
                )
            if slot not in self._last_tokens:
                raise SlotError(
                    sentence("slot", slot, "is not admitted", "admit() it before using it")
                )
        if len(set(slots)) != len(slots):
            twice = next(slot for slot in slots if list(slots).count(slot) > 1)
            raise SlotError(
                sentence(
                    "slot", twice, "is named twice in one launch", "give each request its own slot"
                )
            )
