# SPDX-License-Identifier: Apache-2.0
"""One kernel under audit: its code read, its paths followed, its accesses traced to arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphrt.capture.audit import ptx
from graphrt.capture.audit.links import KernelCode, Link
from graphrt.capture.audit.paths import NEVER, Paths
from graphrt.capture.audit.provenance import Access, Provenance
from graphrt.capture.audit.verdict import Finding, Rule, Severity
from graphrt.errors import CaptureError, sentence


@dataclass(frozen=True, slots=True)
class Seen:
    """An access with the names of the arguments it may go to, and the waits behind it."""

    access: Access
    arguments: tuple[str, ...]
    waits: int

    @property
    def early(self) -> bool:
        """Whether some path reaches it without a wait."""
        return bool(self.waits & NEVER)

    @property
    def late(self) -> bool:
        """Whether some path reaches it after a wait."""
        return bool(self.waits & ~NEVER)

    @property
    def on(self) -> str:
        """Return how many paths reach it early, in words."""
        return "on some path" if self.late else "on every path"


class Subject:
    """A kernel and what it is held to. ``seen`` holds its accesses that some path reaches."""

    def __init__(self, code: KernelCode, link: Link) -> None:
        """Read the code. Raises CaptureError where it does not fit ``link`` or its arguments."""
        module = ptx.read(code.ptx)
        self.code, self.link = code, link
        self.function = module.kernel(link.kernel)
        parameters = self.function.parameters
        if len(parameters) < len(code.arguments):
            raise CaptureError(
                sentence(
                    f"arguments of {link.kernel}",
                    len(code.arguments),
                    f"the PTX has {len(parameters)} parameters",
                    "leave out the compile-time constants",
                )
            )
        hidden = range(len(code.arguments), len(parameters))
        self.names = (*code.arguments, *(f"hidden argument {number}" for number in hidden))
        self.paths = Paths(self.function)
        provenance = Provenance(module, self.function)
        provenance.solve()
        self.seen = [
            Seen(access, tuple(self.names[n] for n in access.arguments), waits)
            for access in provenance.accesses()
            if (waits := self.paths.waits[access.index])
        ]
        self.linked = link.programmatic or bool(code.programmatic)

    def tensor(self, argument: str) -> str:
        """Return the tensor that ``argument`` is declared to point into."""
        return self.link.reads.get(argument) or self.link.writes.get(argument) or argument

    def finding(
        self,
        severity: Severity,
        rule: Rule,
        text: str,
        *,
        argument: str | None = None,
        instructions: Sequence[int] = (),
    ) -> Finding:
        """Return a finding; the first of ``instructions`` gives its source line."""
        found = [self.function.instructions[index] for index in instructions]
        source = found[0].source if found else None
        lines = tuple(instruction.ptx_line for instruction in found)
        return Finding(severity, rule, self.link.stage, text, argument, source, lines)
