# SPDX-License-Identifier: Apache-2.0
"""The audit's rules about accesses: what is touched before the wait, and what cannot be decided."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TypeAlias

from graphrt.capture.audit import ptx
from graphrt.capture.audit.links import Link
from graphrt.capture.audit.memory_access import Kind
from graphrt.capture.audit.subject import Seen, Subject
from graphrt.capture.audit.verdict import Finding, Rule, Severity, Trusted

# Accesses told as one: kind, arguments hit, whether it can be no other, on which paths, and where.
_Group: TypeAlias = tuple[Kind, tuple[str, ...], bool, str, ptx.Source | None]

# They write to a buffer of the driver's alone.
_HARMLESS_CALLS = {"vprintf", "__assertfail"}


def early_findings(subject: Subject) -> Iterator[Finding]:
    """Accesses before the wait that meet those of kernels still running."""
    groups: dict[_Group, list[Seen]] = defaultdict(list)
    for seen, hit in _hits(subject):
        sure = len(hit) == len(seen.arguments) and not seen.access.variables
        key = (seen.access.kind, hit, sure, seen.on, seen.access.instruction.source)
        groups[key].append(seen)
    for (kind, hit, sure, on, _), group in groups.items():
        yield _early_finding(subject, kind, hit, sure, on, group)


def _hits(subject: Subject) -> Iterator[tuple[Seen, tuple[str, ...]]]:
    """Yield each access before the wait with those of its arguments that it may not touch yet."""
    for seen in subject.seen:
        if seen.early and seen.access.decided:
            hit = tuple(n for n in seen.arguments if _meets(subject.link, seen.access.kind, n))
            if hit:
                yield seen, hit


def _meets(link: Link, kind: Kind, argument: str) -> bool:
    """Return whether a kernel still running conflicts with such an access to ``argument``."""
    if kind is Kind.LOAD and argument in link.older:
        return False
    return argument in link.written or (kind.writes and argument in link.read)


def _early_finding(
    subject: Subject, kind: Kind, hit: tuple[str, ...], sure: bool, on: str, group: list[Seen]
) -> Finding:
    name = " or ".join(hit)
    if not sure:
        others = [n for n in group[0].arguments if n not in hit]
        name += f" (or into {', '.join(others) or 'a variable'})"
    writers = sorted({stage for n in hit for stage in subject.link.written.get(n, ())})
    readers = sorted({stage for n in hit for stage in subject.link.read.get(n, ())})
    tensor = " or ".join(sorted({subject.tensor(n) for n in hit}))
    if kind is Kind.PREFETCH:
        severity, rule, verb = Severity.NOTE, Rule.EARLY_PREFETCH, "prefetches"
    else:
        severity = Severity.RACE if sure else Severity.UNDECIDED
        loads = kind is Kind.LOAD
        rule = Rule.EARLY_LOAD if loads else Rule.EARLY_STORE
        verb = {Kind.LOAD: "loads", Kind.STORE: "stores"}.get(kind, "accesses")
    doing = "writing" if writers else "reading"
    return subject.finding(
        severity,
        rule,
        f"{verb} {name} before the wait, {on}, while {' and '.join(writers or readers)} may "
        f"still be {doing} {tensor}; move it below the wait",
        argument=hit[0],
        instructions=[seen.access.index for seen in group],
    )


def stale_findings(subject: Subject) -> Iterator[Finding]:
    """Accesses at addresses made of what was loaded too early, wherever they are themselves."""
    groups: dict[tuple[object, ...], list[tuple[Seen, int, bool]]] = defaultdict(list)
    stale = {seen.access.index for seen, _ in _hits(subject) if seen.access.kind.reads}
    for seen in subject.seen:
        sure = [index for index in seen.access.loads if index in stale]
        maybe = [index for index in seen.access.perhaps if index in stale]
        if sure or maybe:
            key = (seen.arguments, bool(sure), seen.access.instruction.source)
            groups[key].append((seen, (sure or maybe)[0], bool(sure)))
    for group in groups.values():
        seen, origin, is_sure = group[0]
        name = " or ".join(seen.arguments) or "an address that no argument gives"
        computed = "computed" if is_sure else "perhaps computed, through shared memory,"
        yield subject.finding(
            Severity.RACE if is_sure else Severity.UNDECIDED,
            Rule.STALE_ADDRESS,
            f"{seen.access.kind.value} through {name} at an address {computed} from what "
            f"{subject.function.instructions[origin].source} loaded before the wait; load that "
            "below the wait",
            argument=seen.arguments[0] if seen.arguments else None,
            instructions=[one.access.index for one, _, _ in group],
        )


def non_coherent_findings(subject: Subject) -> Iterator[Finding]:
    """Non-coherent loads, before the wait or after, of what kernels still running write."""
    for seen in subject.seen:
        met = [name for name in seen.arguments if name in subject.link.written]
        if met and not seen.access.touch.coherent:
            yield subject.finding(
                Severity.UNDECIDED,
                Rule.NON_COHERENT,
                f"loads {met[0]} with ld.global.nc, which assumes that nobody writes it while "
                "the kernel runs; the wait does not order it",
                argument=met[0],
                instructions=[seen.access.index],
            )


def undecided_findings(subject: Subject) -> Iterator[Finding]:
    """Accesses that may go anywhere."""
    for seen in subject.seen:
        if seen.access.decided or seen.access.kind is Kind.PREFETCH:
            continue
        loaded = [subject.function.instructions[index].source for index in seen.access.loads]
        known = " or ".join((*seen.arguments, *seen.access.variables))
        origin = f"may come from {known} and elsewhere" if known else "comes from no argument"
        if not known and loaded:
            origin += f", it was loaded at {loaded[-1]}"
        yield subject.finding(
            Severity.UNDECIDED,
            Rule.UNKNOWN_ADDRESS,
            f"`{seen.access.instruction}`: its address {origin}; what it touches is not known",
            argument=seen.arguments[0] if seen.arguments else None,
            instructions=[seen.access.index],
        )


def undeclared_findings(subject: Subject) -> Iterator[Finding]:
    """What the next stages are held to rests on the declaration, so it must be complete."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for seen in subject.seen:
        kind = seen.access.kind
        for name in (*seen.arguments, *seen.access.variables):
            if kind.reads and kind is not Kind.PREFETCH and name not in subject.link.reads:
                groups[name, "read"].append(seen.access.index)
            if kind.writes and name not in subject.link.writes:
                groups[name, "written"].append(seen.access.index)
    for (name, how), indices in groups.items():
        yield subject.finding(
            Severity.UNDECIDED,
            Rule.UNDECLARED,
            f"{name} is not declared as {how} by {subject.link.stage}; declare it, the other "
            "stages are held to the declaration",
            argument=name,
            instructions=indices,
        )


def call_findings(subject: Subject) -> Iterator[Finding]:
    """Calls into functions, of which nothing is known."""
    for index, instruction in enumerate(subject.function.instructions):
        if not instruction.has("call") or not subject.paths.waits[index]:
            continue
        called = next(op for op in instruction.operands if not op.startswith("("))
        if called not in _HARMLESS_CALLS:
            yield subject.finding(
                Severity.UNDECIDED,
                Rule.UNKNOWN_CALL,
                f"calls {called}, which the audit does not follow; have it inlined",
                instructions=[index],
            )


def trusted_reads(subject: Subject) -> tuple[Trusted, ...]:
    """Return the declarations of older rows without which `early_findings` would find more."""
    link = subject.link
    groups: dict[str, dict[ptx.Source, None]] = {}
    for seen in subject.seen:
        if not (seen.early and seen.access.decided and seen.access.kind is Kind.LOAD):
            continue
        for name in seen.arguments:
            if name in link.older and name in link.written:
                source = seen.access.instruction.source
                groups.setdefault(name, {}).update({source: None} if source else {})
    return tuple(
        Trusted(link.stage, name, subject.tensor(name), link.written[name], tuple(sources))
        for name, sources in sorted(groups.items())
    )


def unused_declarations(subject: Subject) -> Iterator[Finding]:
    """Declarations of older rows that nothing rests on."""
    used = {trusted.argument for trusted in trusted_reads(subject)}
    for name in sorted(subject.link.older - used):
        yield subject.finding(
            Severity.NOTE,
            Rule.IDLE,
            f"{name} is declared as an older read and none is made before the wait of what a "
            "kernel upstream writes; drop the declaration",
            argument=name,
        )
