# SPDX-License-Identifier: Apache-2.0
"""What the audit is told of a chain: which stage touches which tensors, and which are linked.

A chain states this once, as plain data. `chain_links` turns it into one `Link` per stage: which of
its arguments point into tensors that kernels still running may read or write before the wait.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from graphrt.errors import CaptureError, sentence

_ANY = "any kernel before it"


class Stage(Protocol):
    """One kernel of a chain, as its owner declares it. Arguments are named as in the kernel."""

    @property
    def name(self) -> str:
        """What findings call the stage."""

    @property
    def kernel(self) -> str:
        """The name of the kernel function, as in PTX and in a graph's node."""

    @property
    def reads(self) -> Mapping[str, str]:
        """Each argument that is read, and the tensor it points into."""

    @property
    def writes(self) -> Mapping[str, str]:
        """Each argument that is written, and the tensor it points into."""

    @property
    def older(self) -> Collection[str]:
        """Arguments read before the wait in rows that no stage still running writes.

        Provenance tells tensors apart and not their rows, so the audit trusts this, and lists it.
        """

    @property
    def entry(self) -> bool:
        """Whether the stage, when linked, follows whatever kernel comes before it.

        Of that kernel nothing is known, so until its wait the stage may touch ``constant``
        arguments alone. It signals after its wait: when the next stage starts, all before this one
        has completed.
        """

    @property
    def behind(self) -> bool:
        """Whether the stage is an entry that comes behind another of the same chain alone.

        All before that one had completed when it signalled. So until its wait the stage may read
        what the chain wrote before, too; nobody else writes that, which is trusted.
        """

    @property
    def constant(self) -> Collection[str]:
        """Arguments of an entry whose tensors no kernel writes; trusted of those off the chain."""


@dataclass(frozen=True, slots=True)
class KernelCode:
    """A compiled kernel: its PTX, and the names of its parameters in order, hidden ones left out.

    programmatic: whether it is launched with PDL, None where that is not known.
    """

    ptx: str
    arguments: tuple[str, ...]
    programmatic: bool | None = None

    @classmethod
    def of(cls, compiled: Any) -> KernelCode:
        """Return the code of a compiled Triton kernel, as a launch returns it.

        Raises CaptureError for an object that carries no PTX or no signature.
        """
        text = getattr(compiled, "asm", {}).get("ptx")
        signature = getattr(getattr(compiled, "src", None), "signature", None)
        if not isinstance(text, str) or not isinstance(signature, Mapping):
            raise CaptureError(
                sentence(
                    "kernel",
                    type(compiled).__name__,
                    "the audit reads asm['ptx'] and src.signature",
                    "pass a kernel that Triton compiled for CUDA",
                )
            )
        arguments = {name: type_ for name, type_ in signature.items() if type_ != "constexpr"}
        several = [n for n, t in arguments.items() if not isinstance(t, str) or "tensordesc" in t]
        if several:
            raise CaptureError(
                sentence(
                    "arguments",
                    several,
                    "tuples and tensor descriptors become several parameters each",
                    "pass KernelCode the names of the parameters of the PTX",
                )
            )
        programmatic = getattr(getattr(compiled, "metadata", None), "launch_pdl", None)
        return cls(text, tuple(arguments), programmatic)


@dataclass(frozen=True, slots=True)
class Link:
    """What the audit holds one kernel to.

    programmatic: the kernel is linked to the one before it, so it must wait. signals: the next one
    is linked to it, which behind the last stage is the entry of the next layer. reads, writes: the
    declared arguments and their tensors. written, read: of those arguments the ones whose tensor a
    stage upstream writes, or reads, with the stages that may still be running when this one starts;
    of an entry all but its constants, and what the chain wrote for it. older, entry: see `Stage`.
    """

    stage: str
    kernel: str
    programmatic: bool
    signals: bool
    reads: Mapping[str, str]
    writes: Mapping[str, str]
    written: Mapping[str, tuple[str, ...]]
    read: Mapping[str, tuple[str, ...]]
    older: frozenset[str] = frozenset()
    entry: bool = False


def chain_links(stages: Sequence[Stage], linked: Collection[str]) -> dict[str, Link]:
    """Return the link of each stage, by name, in order.

    linked: the names of the stages launched programmatically after the stage before them. Such a
    stage starts when the one before has signalled; and that one, if linked too, may have signalled
    before its own wait. So what may still be running reaches back to the last stage that was
    launched normally, which had all before it complete, or to the last entry, which had so when it
    signalled. Raises CaptureError for a name in ``linked`` that is no stage or the first, for
    ``older`` and ``constant`` arguments that are not read, and for constants that a stage writes.
    """
    known = [stage.name for stage in stages]
    for name in linked:
        if name not in known[1:]:
            raise CaptureError(
                sentence("linked", name, f"must be one of {known[1:]}", "name a later stage")
            )
    links = {}
    for index, stage in enumerate(stages):
        strangers = set(stage.older) - set(stage.reads)
        if strangers:
            raise CaptureError(
                sentence(
                    f"{stage.name}.older",
                    sorted(strangers),
                    "a declared older read must be declared as read",
                    "add it to reads",
                )
            )
        _check_constants(stage, stages)
        upstream = _upstream(stages, index, linked)
        own = {**stage.reads, **stage.writes}
        written = _meeting(own, {before.name: before.writes for before in upstream})
        read = _meeting(own, {before.name: before.reads for before in upstream})
        if stage.entry:
            written, read = _met_by_entry(stage, own, stages)
        links[stage.name] = Link(
            stage.name,
            stage.kernel,
            stage.name in linked,
            any(each.name in linked for each in _followers(stages, index)),
            dict(stage.reads),
            dict(stage.writes),
            written,
            read,
            frozenset(stage.older),
            stage.entry,
        )
    return links


def _met_by_entry(
    stage: Stage, own: Mapping[str, str], stages: Sequence[Stage]
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Return what kernels that may still run write, and read: any that comes before an entry.

    Behind another entry only entries may still run, of the chain's kernels, and no other writes
    what a chain's kernel writes.
    """
    met: dict[str, tuple[str, ...]] = {name: (_ANY,) for name in own if name not in stage.constant}
    if not stage.behind:
        return met, met
    entries = {each.name: each.writes for each in stages if each.entry}
    chains = {tensor for each in stages for tensor in each.writes.values()}
    running = _meeting(own, entries)
    written = {name: by for name, by in met.items() if own[name] not in chains} | running
    return written, met


def _check_constants(stage: Stage, stages: Sequence[Stage]) -> None:
    written = {tensor for each in stages for tensor in each.writes.values()}
    wrong = [name for name in stage.constant if stage.reads.get(name, None) in written | {None}]
    if wrong:
        raise CaptureError(
            sentence(
                f"{stage.name}.constant",
                sorted(wrong),
                "a constant must be declared as read, and written by no stage",
                "take it out",
            )
        )


def _followers(stages: Sequence[Stage], index: int) -> Sequence[Stage]:
    """Return the stage behind stage ``index``; behind the last, which repeats, the entries."""
    return stages[index + 1 : index + 2] or [stage for stage in stages if stage.entry]


def _upstream(stages: Sequence[Stage], index: int, linked: Collection[str]) -> list[Stage]:
    """Return the stages that may still be running if stage ``index`` is launched with PDL."""
    running: list[Stage] = []
    while index > 0:
        index -= 1
        running.insert(0, stages[index])
        if stages[index].name not in linked or stages[index].entry:
            break
    return running


def _meeting(
    own: Mapping[str, str], others: Mapping[str, Mapping[str, str]]
) -> dict[str, tuple[str, ...]]:
    """Return per argument the stages among ``others`` that name its tensor."""
    met = {
        argument: tuple(name for name, named in others.items() if tensor in named.values())
        for argument, tensor in own.items()
    }
    return {argument: stages for argument, stages in met.items() if stages}
