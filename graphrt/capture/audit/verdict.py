# SPDX-License-Identifier: Apache-2.0
"""What the audit of PDL links says: findings, declarations it had to trust, and their printing."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from graphrt.capture.audit.ptx import Source


class Severity(enum.Enum):
    """How bad a finding is. Only a NOTE leaves the verdict an acquittal."""

    RACE = "race"
    UNDECIDED = "undecided"
    LOST_OVERLAP = "lost overlap"
    NOTE = "note"


class Rule(enum.Enum):
    """Which rule a finding is about."""

    EARLY_LOAD = "load before the wait"
    EARLY_STORE = "store before the wait"
    STALE_ADDRESS = "address from a load before the wait"
    NO_WAIT = "path without a wait"
    MANY_WAITS = "more than one wait"
    NO_SIGNAL = "path without a signal"
    LATE_SIGNAL = "late signal"
    EARLY_SIGNAL = "signal before the wait"
    UNKNOWN_ADDRESS = "address of unknown origin"
    UNKNOWN_CALL = "call that is not followed"
    UNDECLARED = "access that is not declared"
    NON_COHERENT = "non-coherent load"
    EARLY_PREFETCH = "prefetch before the wait"
    IDLE = "signal, wait or declaration without effect"
    LAUNCH = "launch that is not as declared"
    EDGE = "edge that is not as declared"
    SPLIT = "node between two stages"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: in which stage, through which argument, at which line, and what it means.

    argument, source: None where the finding has none. ptx_lines: lines of the PTX, from 1, of the
    instructions meant. nodes: handles of graph nodes, for findings about a graph.
    """

    severity: Severity
    rule: Rule
    stage: str
    sentence: str
    argument: str | None = None
    source: Source | None = None
    ptx_lines: tuple[int, ...] = ()
    nodes: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return one line: severity, source line, the sentence, where to look."""
        at = f"{self.source}: " if self.source else ""
        where = ""
        if self.ptx_lines:
            where = f" [PTX {_some(self.ptx_lines)}]"
        elif self.nodes:
            where = f" [{len(self.nodes)} x, first at node {self.nodes[0]:#x}]"
        return f"{self.severity.value}: {at}{self.sentence}{where}"


@dataclass(frozen=True, slots=True)
class Trusted:
    """A declaration the verdict rests on: ``stage`` reads only older rows through ``argument``.

    upstream: the stages that write other rows of the same tensor meanwhile. sources: where the
    argument is read before the wait.
    """

    stage: str
    argument: str
    tensor: str
    upstream: tuple[str, ...]
    sources: tuple[Source, ...]

    def __str__(self) -> str:
        """Return one line."""
        lines = ", ".join(str(source) for source in self.sources)
        return (
            f"trusted: {self.argument} is read before the wait at {lines}; declared to be older "
            f"rows of {self.tensor} than those {' and '.join(self.upstream)} may be writing"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about one stage, or about the edges of a graph.

    early, late: the arguments accessed before, and after, a wait; a stage without any has only
    early ones.
    """

    stage: str
    findings: tuple[Finding, ...]
    trusted: tuple[Trusted, ...] = ()
    early: tuple[str, ...] = ()
    late: tuple[str, ...] = ()

    @property
    def acquitted(self) -> bool:
        """Whether nothing worse than a note was found."""
        return not self.of(Severity.RACE, Severity.UNDECIDED, Severity.LOST_OVERLAP)

    def of(self, *severities: Severity) -> list[Finding]:
        """Return the findings of these severities."""
        return [finding for finding in self.findings if finding.severity in severities]

    def __str__(self) -> str:
        """Return the verdict as lines of text, worst findings first."""
        order = list(Severity)
        worst = sorted(self.findings, key=lambda finding: order.index(finding.severity))
        lines = [f"{self.stage}: {'acquitted' if self.acquitted else 'convicted'}"]
        lines += [f"  {line}" for line in (*worst, *self.trusted)]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class ChainVerdict:
    """The verdicts about the stages of a chain, in its order."""

    stages: tuple[Verdict, ...] = field(default_factory=tuple)

    @property
    def acquitted(self) -> bool:
        """Whether every stage is acquitted."""
        return all(verdict.acquitted for verdict in self.stages)

    @property
    def findings(self) -> list[Finding]:
        """All findings, in the order of the stages."""
        return [finding for verdict in self.stages for finding in verdict.findings]

    @property
    def trusted(self) -> list[Trusted]:
        """All declarations the verdict rests on."""
        return [trusted for verdict in self.stages for trusted in verdict.trusted]

    def __str__(self) -> str:
        """Return the verdicts as text."""
        return "\n".join(str(verdict) for verdict in self.stages)


def _some(lines: tuple[int, ...], most: int = 4) -> str:
    shown = ", ".join(str(line) for line in lines[:most])
    return shown if len(lines) <= most else f"{shown} and {len(lines) - most} more"
