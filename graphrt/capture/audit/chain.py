# SPDX-License-Identifier: Apache-2.0
"""The audit of PDL links, code half: does a compiled kernel wait for what it reads?

A consumer that is linked to its producer starts before the producer has completed. Until its wait
it may touch nothing that kernels still running write, and write nothing that they touch; and every
path to its exit must wait, since the next link relies on its completion. The audit follows every
path of the kernel's PTX and traces every address back to the kernel's arguments. What it cannot
decide it reports; it never passes it. See docs/inspection.md for what it proves and what it cannot.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from graphrt.capture.audit import accesses, waits
from graphrt.capture.audit.links import KernelCode, Link, Stage, chain_links
from graphrt.capture.audit.subject import Subject
from graphrt.capture.audit.verdict import ChainVerdict, Verdict
from graphrt.errors import CaptureError, sentence

_ALWAYS = (
    waits.launch_findings,
    accesses.call_findings,
    accesses.undecided_findings,
    accesses.undeclared_findings,
    waits.signal_findings,
    waits.idle_findings,
)
_LINKED = (
    waits.wait_findings,
    waits.entry_findings,
    accesses.early_findings,
    accesses.stale_findings,
    accesses.non_coherent_findings,
    accesses.unused_declarations,
)


def audit_chain(
    codes: Mapping[str, KernelCode], stages: Sequence[Stage], linked: Collection[str]
) -> ChainVerdict:
    """Return the verdict about each of ``stages``, given its compiled code by name.

    linked: the stages launched programmatically. Raises CaptureError where a stage has no code, or
    for PTX that cannot be read.
    """
    links = chain_links(stages, linked)
    missing = [name for name in links if name not in codes]
    if missing:
        raise CaptureError(
            sentence("codes", sorted(codes), f"no code for {', '.join(missing)}", "compile it too")
        )
    return ChainVerdict(tuple(audit_kernel(codes[name], link) for name, link in links.items()))


def audit_kernel(code: KernelCode, link: Link) -> Verdict:
    """Return the verdict about one compiled kernel under what ``link`` says of it.

    Raises CaptureError for PTX that cannot be read, that does not define ``link.kernel``, or that
    has fewer parameters than ``code.arguments``.
    """
    subject = Subject(code, link)
    rules = (*_ALWAYS, *(_LINKED if subject.linked else ()))
    early = {name for seen in subject.seen if seen.early for name in seen.arguments}
    late = {name for seen in subject.seen if seen.late for name in seen.arguments}
    return Verdict(
        link.stage,
        tuple(finding for rule in rules for finding in rule(subject)),
        accesses.trusted_reads(subject) if subject.linked else (),
        early=tuple(name for name in subject.names if name in early),
        late=tuple(name for name in subject.names if name in late),
    )
