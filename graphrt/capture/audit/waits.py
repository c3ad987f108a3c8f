# SPDX-License-Identifier: Apache-2.0
"""The audit's rules about paths: waits, signals, and the launch itself."""

from __future__ import annotations

from collections.abc import Iterator

from graphrt.capture.audit.paths import NEVER, TWICE
from graphrt.capture.audit.subject import Subject
from graphrt.capture.audit.verdict import Finding, Rule, Severity


def launch_findings(subject: Subject) -> Iterator[Finding]:
    """A launch that is not the one declared."""
    declared, compiled = subject.link.programmatic, subject.code.programmatic
    if compiled is None or compiled == declared:
        return
    if declared:
        yield subject.finding(
            Severity.LOST_OVERLAP,
            Rule.LAUNCH,
            "declared as linked and launched normally; launch it with launch_pdl=True",
        )
    else:
        yield subject.finding(
            Severity.RACE,
            Rule.LAUNCH,
            "declared as launched normally and launched with PDL: it starts before the kernel "
            "before it has completed; launch it with launch_pdl=False or declare the link",
        )


def wait_findings(subject: Subject) -> Iterator[Finding]:
    """Paths of a linked kernel without a wait, or with several."""
    exits = [i for i in subject.paths.exits() if subject.paths.waits[i] & NEVER]
    if exits and not subject.paths.wait_instructions:
        yield subject.finding(
            Severity.RACE,
            Rule.NO_WAIT,
            "linked to the kernel before it and never waits for it; wait on every path",
        )
    elif exits:
        leaving, end = _way_out(subject, exits[0])
        yield subject.finding(
            Severity.RACE,
            Rule.NO_WAIT,
            f"a path leaves here{end} without a wait: that the kernel has completed then says "
            "nothing about the one before it; wait once on every path, early returns included",
            instructions=[leaving],
        )
    many = [i for i in subject.paths.exits() if subject.paths.waits[i] & TWICE]
    if many:
        yield subject.finding(
            Severity.NOTE,
            Rule.MANY_WAITS,
            "a path waits more than once; all but the first return at once",
            instructions=subject.paths.wait_instructions,
        )


def signal_findings(subject: Subject) -> Iterator[Finding]:
    """Paths without a signal for the next kernel, and late signals."""
    if not subject.link.signals:
        return
    paths = subject.paths
    exits = [i for i in paths.exits() if paths.signals[i] & NEVER]
    if exits and not paths.signal_instructions:
        yield subject.finding(
            Severity.LOST_OVERLAP,
            Rule.NO_SIGNAL,
            "never signals: the next kernel starts when this one has completed, as if the "
            "link were not there; signal first thing",
        )
    elif exits:
        leaving, end = _way_out(subject, exits[0], signals=True)
        yield subject.finding(
            Severity.LOST_OVERLAP,
            Rule.NO_SIGNAL,
            f"a path leaves here{end} without a signal: the next kernel starts when the "
            "programs that took it have ended; signal first thing",
            instructions=[leaving],
        )
    if subject.link.entry and subject.linked:  # the wait and what precedes it come first
        touching = {seen.access.index for seen in subject.seen if seen.late}
        behind = "waited and touched memory, which the next kernel waits for too; signal at once"
    else:
        touching = {seen.access.index for seen in subject.seen} | set(paths.wait_instructions)
        behind = "touched memory or waited, which the next kernel waits for too; signal first thing"
    late = paths.after(touching, paths.signal_instructions)
    if late:
        yield subject.finding(
            Severity.NOTE, Rule.LATE_SIGNAL, f"signals after it has {behind}", instructions=late
        )


def entry_findings(subject: Subject) -> Iterator[Finding]:
    """Signals of a linked entry that some path reaches without a wait."""
    paths = subject.paths
    early = [i for i in paths.signal_instructions if paths.waits[i] & NEVER]
    if subject.link.entry and subject.link.signals and early:
        yield subject.finding(
            Severity.RACE,
            Rule.EARLY_SIGNAL,
            "signals before it has waited: the next kernel may start while any kernel before this "
            "one still runs, and reads before its own wait what that writes; signal below the wait",
            instructions=early,
        )


def idle_findings(subject: Subject) -> Iterator[Finding]:
    """Waits and signals that nothing depends on."""
    if subject.paths.wait_instructions and not subject.linked:
        yield subject.finding(
            Severity.NOTE,
            Rule.IDLE,
            "waits although it is launched normally; the wait returns at once",
            instructions=subject.paths.wait_instructions,
        )
    if subject.paths.signal_instructions and not subject.link.signals:
        yield subject.finding(
            Severity.NOTE,
            Rule.IDLE,
            "signals although no kernel is linked to it",
            instructions=subject.paths.signal_instructions,
        )


def _way_out(subject: Subject, exit_index: int, *, signals: bool = False) -> tuple[int, str]:
    """Return where the way to an exit parts from a wait or signal, and words for the exit."""
    parting = subject.paths.parting(exit_index, signals=signals)
    if parting is None or parting == exit_index:
        return exit_index, ""
    source = subject.function.instructions[exit_index].source
    return parting, f" and ends at {source}" if source and source.line else " and ends"
