# SPDX-License-Identifier: Apache-2.0
"""The smallest changes that are worth a verdict: defaults by quantity, or what the user sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphrt.errors import ConfigError, sentence
from graphrt.latency.quantities import TAIL_EFFECT, quantity


@dataclass(frozen=True, slots=True)
class MinimumEffects:
    """Shares, 0.03 for 3 %.

    everything: for all quantities but those that happen once a graph. by_quantity: for one, any;
    goes first.

    Raises ConfigError for an unknown quantity, or a share outside 0.001 … 10.
    """

    everything: float | None = None
    by_quantity: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every share."""
        for name in self.by_quantity:
            quantity(name)
        given = [*self.by_quantity.values()]
        given += [] if self.everything is None else [self.everything]
        for share in given:
            if not 0.001 <= share <= 10:
                raise ConfigError(
                    sentence("minimum effect", share, "must be 0.001 … 10", "0.03 means 3 %")
                )

    @classmethod
    def parse(cls, texts: Sequence[str]) -> MinimumEffects:
        """Return what ``0.03`` and ``QUANTITY=0.03`` say, the last of each."""
        everything: float | None = None
        by_quantity: dict[str, float] = {}
        for text in texts:
            name, has_name, share = text.rpartition("=")
            try:
                value = float(share)
            except ValueError:
                raise ConfigError(
                    sentence("minimum effect", text, "must be a share", "0.03 or step=0.05")
                ) from None
            if has_name:
                by_quantity[name] = value
            else:
                everything = value
        return cls(everything, by_quantity)

    def of(self, name: str, quantile: float, size_us: float) -> float:
        """Return the least share of a quantity's quantile that is about ``size_us`` long.

        At least what the quantity's clock resolves.
        """
        what = quantity(name)
        share = self.by_quantity.get(name, None if what.one_off else self.everything)
        if share is None:
            share = what.minimum_effect
        if quantile > 0.5:
            share = max(share, TAIL_EFFECT)
        return max(share, what.resolution_us / size_us)
