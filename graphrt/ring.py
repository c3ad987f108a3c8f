# SPDX-License-Identifier: Apache-2.0
"""Ring positions and the flush rule of one slot, in plain integers.

The kernels' ``advance`` does this arithmetic on the device for every row of a launch; this module
is the same rule for one slot, and what the kernel and its twin are tested against.

A ring has ``R = window + T`` rows. A slot's history is the ``held`` accepted tokens from
``ring_start`` on; the tokens of the current launch are appended at ``[held, held + T)`` past
``ring_start``, which never touches a history row because ``held ≤ window``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class SlotCursors:
    """The cursors of one slot after an advance; all zero for a slot just admitted."""

    held: int = 0
    ring_start: int = 0
    conv_pos: int = 0
    flushed: bool = False
    last_tokens: int = 0


def must_flush(held: int, tokens: int, window: int) -> bool:
    """Return whether a launch of ``tokens`` folds the ``held`` history tokens into the checkpoint.

    True exactly when ``held + tokens > window``: were nothing folded, the next launch could find
    more history than the window holds.
    """
    return held + tokens > window


def clamp_accepted(accepted: int, last_tokens: int) -> int:
    """Return ``accepted`` limited to 0 … the tokens of the slot's last launch."""
    return min(max(accepted, 0), last_tokens)


def advance(
    cursors: SlotCursors,
    accepted: int,
    tokens: int,
    window: int,
    ring_rows: int,
    conv_ring_rows: int,
) -> SlotCursors:
    """Commit ``accepted`` tokens of the last launch and decide the next one, of ``tokens``.

    If the last launch flushed, its history is in the checkpoint: the ring now starts at that
    launch's own tokens. The returned ``flushed`` says whether the coming launch flushes.
    """
    kept = clamp_accepted(accepted, cursors.last_tokens)
    if cursors.flushed:
        held, start = kept, (cursors.ring_start + cursors.held) % ring_rows
    else:
        held, start = cursors.held + kept, cursors.ring_start
    return replace(
        cursors,
        held=held,
        ring_start=start,
        conv_pos=(cursors.conv_pos + kept) % conv_ring_rows,
        flushed=must_flush(held, tokens, window),
        last_tokens=tokens,
    )


def ring_row(ring_start: int, index: int, ring_rows: int) -> int:
    """Return the physical ring row of history (or appended) token ``index``."""
    return (ring_start + index) % ring_rows
