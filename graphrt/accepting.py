# SPDX-License-Identifier: Apache-2.0
"""Accepted counts on the host's side: the rules they obey, and the report of those that did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from graphrt.errors import AcceptError, sentence
from graphrt.kernels.tensors import NO_CLAMP
from graphrt.slots import SlotTable


def by_slot(counts: Sequence[int], rows: Sequence[int]) -> dict[int, int]:
    """Return counts given in the order of a launch's ``rows`` as a mapping from slot to count."""
    if len(counts) != len(rows):
        raise AcceptError(counts_missing(len(counts), len(rows)))
    return dict(zip(rows, counts, strict=True))


def counts_missing(counts: int, rows: int) -> str:
    """Return the sentence for another number of counts than the last launch had rows."""
    return sentence(
        "counts",
        f"{counts} counts",
        f"the last launch had {rows} rows",
        "pass one count a row, or a mapping from slot to count",
    )


def check_counts(counts: Mapping[int, int], slots: SlotTable) -> None:
    """Raise unless every slot is admitted and every count is 0 … the slot's last T."""
    slots.check(list(counts))
    for slot, count in counts.items():
        last = slots.last_tokens(slot)
        if not isinstance(count, Integral) or not 0 <= count <= last:
            raise AcceptError(
                sentence(
                    f"accepted[{slot}]",
                    count,
                    f"must be 0 … {last}, the tokens of the slot's last launch",
                    "count the confirmed token and the accepted drafts, whole and no more",
                )
            )


def clamped_counts(clamped: NDArray[np.int32]) -> str:
    """Return the sentence for the counts the device clamped, and mark them as reported."""
    clamped[-1] = 0
    wrong = {int(slot): int(clamped[slot]) for slot in np.flatnonzero(clamped[:-1] != NO_CLAMP)}
    clamped[:-1] = NO_CLAMP
    return sentence(
        "accepted",
        wrong,
        "counts by slot outside 0 … the tokens of the slot's last launch were clamped to it "
        "when the device committed them",
        "write each slot's count once, after its launch and before its next one",
    )
