# SPDX-License-Identifier: Apache-2.0
"""What one demo measured, and the tables that say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from graphrt.memory import format_bytes
from graphrt.models.decode import DecodeStats


@dataclass(frozen=True, slots=True)
class Run:
    """What decoding all prompts with launches of ``tokens`` cost, prefill included."""

    tokens: int
    prompt_tokens: int
    new_tokens: int
    launches: int
    tokens_per_launch: float
    tokens_per_second: float
    seconds: float

    @classmethod
    def of(cls, tokens: int, stats: DecodeStats) -> Run:
        """Take the figures of one call."""
        return cls(
            tokens=tokens,
            prompt_tokens=stats.prompt_tokens,
            new_tokens=stats.new_tokens,
            launches=stats.launches,
            tokens_per_launch=stats.tokens_per_launch,
            tokens_per_second=stats.tokens_per_second,
            seconds=stats.seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one demo measured.

    cache_bytes: caches, cursors and scratch. buffer_bytes: the static buffers of every graph.
    difference: a sentence if a text is not the same as one token at a time, else None.
    """

    device: str
    backend: str
    model: str
    window: int
    buckets: tuple[int, ...]
    launch_tokens: tuple[int, ...]
    capture_seconds: float
    cache_bytes: int
    buffer_bytes: int
    speculative: Run
    one_token: Run
    speed_up: float
    texts: dict[str, str]
    difference: str | None


def summary(result: Result) -> tuple[Table, Table]:
    """Return what was run and captured, and what T tokens a launch cost against one."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    for fact in _facts(result):
        facts.add_row(*fact)
    runs = (result.speculative, result.one_token)
    figures = Table(box=None, padding=(0, 2, 0, 0))
    figures.add_column("", style="bold", no_wrap=True)
    for heading in (f"T = {result.speculative.tokens}", "one token at a time"):
        figures.add_column(heading, justify="right", no_wrap=True)
    figures.add_row("launches", *(f"{run.launches:,}" for run in runs))
    figures.add_row(
        "tokens per launch, each text", *(f"{run.tokens_per_launch:.2f}" for run in runs)
    )
    figures.add_row("tokens per second", *(f"{run.tokens_per_second:,.0f}" for run in runs))
    figures.add_row("seconds", *(f"{run.seconds:.2f}" for run in runs))
    return facts, figures


def _facts(result: Result) -> list[tuple[str, str]]:
    graphs = len(result.buckets) * len(result.launch_tokens)
    return [
        ("device", result.device),
        ("backend", result.backend),
        ("model", f"{result.model}; activations and states fp32"),
        ("captured", f"{graphs} graphs in {result.capture_seconds:.2f} s"),
        ("buckets", f"{_listed(result.buckets)}, each for T = {_listed(result.launch_tokens)}"),
        (
            "memory",
            f"caches {format_bytes(result.cache_bytes)}, "
            f"static buffers {format_bytes(result.buffer_bytes)}",
        ),
        (
            "decoded",
            f"{len(result.texts)} prompts ({result.speculative.prompt_tokens:,} tokens), "
            f"{result.speculative.new_tokens:,} new tokens",
        ),
    ]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
