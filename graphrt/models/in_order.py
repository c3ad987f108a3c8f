# SPDX-License-Identifier: Apache-2.0
"""Several texts that grow at once, written one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class InOrder:
    """Passes the first text on as it comes and holds the others back, so that each reads whole.

    What is written ends every text with a newline and puts an empty line between two.
    """

    def __init__(self, write: Callable[[str], object], openings: Sequence[str]) -> None:
        """Write through ``write``; each text follows its opening, written at once for the first."""
        self._write = write
        self._texts = list(openings)
        if self._texts:
            write(self._texts[0])

    def push(self, index: int, piece: str) -> None:
        """Append ``piece`` to text ``index``."""
        self._texts[index] += piece
        if index == 0:
            self._write(piece)

    def close(self) -> None:
        """End the first text and write the others. Once, when all have come."""
        for index, text in enumerate(self._texts):
            whole = "" if text.endswith("\n") else "\n"
            self._write(f"\n{text}{whole}" if index else whole)
