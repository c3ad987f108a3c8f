# SPDX-License-Identifier: Apache-2.0
"""Texts while they grow: panels on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from graphrt.models.in_order import InOrder

_FRAME_SECONDS = 0.06
_PANEL_COLUMNS = 44  # the narrowest panel that code is readable in


class View(Protocol):
    """A context in which texts grow; leaving it shows all of them whole."""

    def push(self, index: int, piece: str) -> None:
        """Append what one launch gave to text ``index``."""


def open_view(console: Console, prompts: Mapping[str, str]) -> AbstractContextManager[View]:
    """Return panels side by side for a terminal, plain lines for anything else."""
    return Panels(console, prompts) if console.is_interactive else Lines(console, prompts)


class Lines:
    """The texts one after another: name, prompt, a mark where it ends, what was decoded."""

    def __init__(self, console: Console, prompts: Mapping[str, str]) -> None:
        """Show on ``console`` what continues ``prompts``, by name."""
        openings = [f"==> {name} <==\n{prompt}»" for name, prompt in prompts.items()]
        console.print("\n» marks where a prompt ends.\n", soft_wrap=True)
        self._texts = InOrder(lambda text: console.out(text, end="", highlight=False), openings)

    def push(self, index: int, piece: str) -> None:
        """Write the first text's pieces as they come."""
        self._texts.push(index, piece)

    def __enter__(self) -> Lines:
        """Return the object itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Write the other texts, unless something was raised."""
        if kind is None:
            self._texts.close()


class Panels:
    """A panel for each text while they grow, then all of them in full.

    The prompt is dim. Of the tokens that one launch gave, all but the last were drafts: green.
    """

    def __init__(self, console: Console, prompts: Mapping[str, str]) -> None:
        """Show on ``console`` what continues ``prompts``, by name."""
        self._console = console
        self._texts = {name: Text(prompt, style="dim") for name, prompt in prompts.items()}
        self._by_index = list(self._texts.values())
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._shown = 0.0

    def push(self, index: int, piece: str) -> None:
        """Append ``piece``; draw, if the last frame is old enough."""
        # TextStream gives a byte-level model's characters token by token, whole ones only.
        self._by_index[index].append(piece[:-1], style="green not dim")
        self._by_index[index].append(piece[-1:], style="not dim")
        now = time.perf_counter()
        if now - self._shown >= _FRAME_SECONDS:
            self._shown = now
            self._live.update(self.frame(), refresh=True)

    def frame(self) -> Table:
        """Return the ends of all texts, side by side, as much as the console is high."""
        console = self._console
        columns = max(1, min(3, console.width // _PANEL_COLUMNS))
        rows = -(-len(self._texts) // columns)
        height = max(3, (console.height - 1) // rows)
        panels = [
            Panel(
                self._end_of(text, console.width // columns - 4, height - 2),
                title=name,
                height=height,
            )
            for name, text in self._texts.items()
        ]
        grid = Table.grid(expand=True)
        for _ in range(columns):
            grid.add_column(ratio=1)
        for first in range(0, len(panels), columns):
            grid.add_row(*panels[first : first + columns])
        return grid

    def _end_of(self, text: Text, width: int, height: int) -> Text:
        lines = text.wrap(self._console, max(1, width), overflow="fold")
        return Text("\n").join(lines[-height:])

    def __enter__(self) -> Panels:
        """Start drawing."""
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the panels away; print the texts, unless something was raised."""
        self._live.__exit__(kind, error, trace)
        if kind is not None:
            return
        for name, text in self._texts.items():
            self._console.rule(name, align="left")
            self._console.print(text)
        self._console.rule()
        self._console.print(
            "Dim: the prompt. [green]Green[/]: drafts that the model agreed with.", markup=True
        )
