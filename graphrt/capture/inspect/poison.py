# SPDX-License-Identifier: Apache-2.0
"""The poison run: what a launch must not read is filled with NaN, and results must not notice.

Reading memory that nobody wrote goes unseen while it happens to hold zeros, or yesterday's rows.
Here it holds poison, and every result has to come out the same, bit for bit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

POISONS = ("nan", "sentinel")
"""What memory is filled with: NaN and the lowest integer; then a large number and the highest."""


@dataclass(frozen=True, slots=True)
class PoisonCase:
    """One launch to try: a bucket, say.

    launch: enqueues it. reset: brings everything that the launch reads by right back to where it
    was, inputs and state. poisoned: tensors the launch must not read before it writes them, such as
    scratch, outputs and rows of padding; views are fine. results: what has to come out the same;
    live rows only. untouched: of ``poisoned`` those that the launch must not write either.
    """

    name: str
    launch: Callable[[], object]
    reset: Callable[[], object]
    poisoned: Mapping[str, Tensor]
    results: Mapping[str, Tensor]
    untouched: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PoisonReport:
    """What a poison run found: launches made, and a sentence for everything that noticed."""

    launches: int
    failures: tuple[str, ...] = field(default_factory=tuple)

    @property
    def passed(self) -> bool:
        """Whether no result noticed."""
        return not self.failures


def poison_run(cases: Sequence[PoisonCase], *, seed: int = 0) -> PoisonReport:
    """Launch every case clean, then poisoned in shuffled order, each twice, and compare bits.

    The second launch of each pair starts from the same state over whatever scratch the first left
    behind. A case that notices is launched again with one tensor poisoned at a time, to say which
    it reads. Tensors are left poisoned, results as the last launch left them: `reset` everything,
    or throw it away. Waits for the device.
    """
    run = _Run()
    clean = {case.name: run.launch(case, "") for case in cases}
    order = list(cases)
    shuffled = random.Random(seed)
    failures: list[str] = []
    for poison in POISONS:
        shuffled.shuffle(order)
        for case in order:
            for filled in (poison, None):
                got = run.launch(case, filled)
                differing = _differing(clean[case.name], got)
                if differing:
                    culprits = run.culprits(case, poison, clean[case.name])
                    failures.append(_sentence(case, poison, filled is None, differing, culprits))
                elif filled is not None:
                    failures += run.written(case, poison)
    return PoisonReport(run.launches, tuple(dict.fromkeys(failures)))


class _Run:
    """Launches cases and counts."""

    def __init__(self) -> None:
        self.launches = 0

    def launch(
        self, case: PoisonCase, poison: str | None, names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Reset, fill, launch, and return copies of the results.

        poison: '' fills with zeros, None leaves what is there. names: what to poison, default all;
        the others are zero then.
        """
        case.reset()
        for name, tensor in case.poisoned.items():
            if poison is not None:
                fill_poison(tensor, poison if names is None or name in names else "")
        case.launch()
        self.launches += 1
        return {name: tensor.clone() for name, tensor in case.results.items()}

    def culprits(self, case: PoisonCase, poison: str, clean: Mapping[str, Tensor]) -> list[str]:
        """Return the tensors that each alone change the results."""
        return [
            name
            for name in case.poisoned
            if _differing(clean, self.launch(case, poison, names=[name]))
        ]

    def written(self, case: PoisonCase, poison: str) -> list[str]:
        """Return a sentence for every tensor that was to be left alone and was written."""
        failures = []
        for name in sorted(case.untouched & set(case.poisoned)):
            tensor = case.poisoned[name]
            left = tensor.clone()
            fill_poison(left, poison)
            if not same_bits(left, tensor):
                failures.append(f"{case.name}: wrote to {name}, which it must leave alone")
        return failures


def _sentence(
    case: PoisonCase, poison: str, again: bool, differing: list[str], culprits: list[str]
) -> str:
    when = "over what an earlier launch left behind" if again else f"with {poison} in the rest"
    read = f"it reads {', '.join(culprits)}" if culprits else "no single tensor explains it"
    return f"{case.name}: {', '.join(differing)} differ {when}: {read}"


def fill_poison(tensor: Tensor, poison: str) -> Tensor:
    """Fill ``tensor`` with one of POISONS, or with zeros for '', and return it."""
    value: float
    if not poison:
        value = 0
    elif tensor.is_floating_point() or tensor.is_complex():
        value = float("nan") if poison == "nan" else torch.finfo(tensor.dtype).max / 4
    elif tensor.dtype == torch.bool:
        value = poison == "nan"
    else:
        limits = torch.iinfo(tensor.dtype)
        # Kernels may read the low half of 64 bits alone, which is not to be the 0 of a clean run.
        value = limits.min + (limits.bits == 64) if poison == "nan" else limits.max
    with torch.no_grad():
        return tensor.fill_(value)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of one shape and dtype hold the same bits, NaN included."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(_bytes(one), _bytes(other))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _differing(clean: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in clean.items() if not same_bits(tensor, got[name])]
