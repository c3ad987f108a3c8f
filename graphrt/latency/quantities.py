# SPDX-License-Identifier: Apache-2.0
"""What is measured. A quantity is a timing contract with a name; two are never mixed.

All are in microseconds. A *series* is one quantity of one part of a case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from graphrt.errors import ConfigError, sentence

WHOLE = "launch"
"""The part that is everything a launch does."""


class Key(NamedTuple):
    """A series within a case: the quantity, and the part of the case it is of."""

    quantity: str
    part: str = WHOLE

    def __str__(self) -> str:
        """Return ``marginal of state_update``, or the quantity alone where the part is all."""
        return self.quantity if self.part == WHOLE else f"{self.quantity} of {self.part}"


@dataclass(frozen=True, slots=True)
class Quantity:
    """A timing contract.

    needs_gpu: means nothing without one. minimum_effect: the smallest change that is worth a
    verdict by default, as a share. resolution_us: changes below it are never called. tails:
    whether p90 and p99 are compared too. one_off: happens once a graph, so that few samples are
    taken and a minimum effect meant for everything does not apply.
    """

    name: str
    contract: str
    needs_gpu: bool
    minimum_effect: float
    resolution_us: float
    tails: bool = False
    one_off: bool = False


QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity(
            "host_launch",
            "host time of one call that launches the graph; the device is waited for between "
            "groups of calls, outside of the timing",
            needs_gpu=False,
            minimum_effect=0.05,
            resolution_us=0.1,
        ),
        Quantity(
            "gpu_span",
            "device time from before a launch to after it, one launch at a time, by events, the "
            "device kept busy until all is enqueued",
            needs_gpu=True,
            minimum_effect=0.03,
            resolution_us=0.3,
            tails=True,
        ),
        Quantity(
            "marginal",
            "what a call adds to a long graph: (spacer, call) x K minus (spacer) x K, over K; "
            "caches cold",
            needs_gpu=True,
            minimum_effect=0.03,
            resolution_us=0.1,
        ),
        Quantity(
            "step",
            "host time of a decode loop's step: accept, launch, wait for the result",
            needs_gpu=False,
            minimum_effect=0.05,
            resolution_us=1.0,
            tails=True,
        ),
        Quantity(
            "first_launch",
            "host time of the first launch of a new graph, until the device is done",
            needs_gpu=False,
            minimum_effect=0.25,
            resolution_us=20.0,
            one_off=True,
        ),
        Quantity(
            "capture",
            "host time to capture, instantiate and upload a graph whose kernels are compiled",
            needs_gpu=False,
            minimum_effect=0.25,
            resolution_us=100.0,
            one_off=True,
        ),
        Quantity(
            "cpu_part",
            "host time of a part run by PyTorch on the CPU, where there is no GPU",
            needs_gpu=False,
            minimum_effect=0.05,
            resolution_us=1.0,
        ),
        Quantity(
            "host_loop",
            "host time of a fixed loop in Python: the yardstick of host times",
            needs_gpu=False,
            minimum_effect=0.05,
            resolution_us=0.5,
        ),
        Quantity(
            "copy",
            "device time of a copy of fixed size: the yardstick of what moves bytes",
            needs_gpu=False,
            minimum_effect=0.03,
            resolution_us=0.5,
        ),
    )
}

TAIL_EFFECT = 0.10
"""The smallest change of p90 or p99 that is worth a verdict."""


def quantity(name: str) -> Quantity:
    """Return a quantity by its name. Raises ConfigError for one that does not exist."""
    try:
        return QUANTITIES[name]
    except KeyError:
        raise ConfigError(
            sentence("quantity", name, f"must be one of {', '.join(QUANTITIES)}", "choose one")
        ) from None
