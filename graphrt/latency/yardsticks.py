# SPDX-License-Identifier: Apache-2.0
"""What is timed beside every case, and does not change with the code: the machine's own speed."""

from __future__ import annotations

import contextlib

import torch

from graphrt.bench.cases import SHAPES, Case
from graphrt.bench.contender import Unavailable
from graphrt.bench.timing import Timed
from graphrt.bench.workload import Effort, Workload
from graphrt.bench.yardsticks.empty import empty
from graphrt.capture.space import capture_space
from graphrt.latency.quantities import Key
from graphrt.latency.samplers import Marginal, Sampler, Samplers, device_us, host_us

EMPTY_CHAIN = Key("marginal", "empty_chain")
COPY = Key("copy")
HOST_LOOP = Key("host_loop")

_COPY_BYTES = {"cuda": 256 << 20, "cpu": 4 << 20}
_CALLS = 64
_TIMES = 4

# Which yardsticks move with which quantity. What is not named is judged by the host's alone.
_OF_QUANTITY = {
    "gpu_span": (COPY, EMPTY_CHAIN),
    "marginal": (COPY, EMPTY_CHAIN),
    "step": (HOST_LOOP, COPY, EMPTY_CHAIN),
}


def yardsticks_of(quantity: str) -> tuple[Key, ...]:
    """Return the yardsticks whose ratios say how the machine changed for ``quantity``."""
    return _OF_QUANTITY.get(quantity, (HOST_LOOP,))


class Yardsticks:
    """The yardsticks of one process; kept while cases come and go."""

    def __init__(self, device: torch.device) -> None:
        """Allocate and capture them."""
        self._device = device
        self._source = torch.ones(_COPY_BYTES[device.type], dtype=torch.uint8, device=device)
        self._target = torch.empty_like(self._source)
        self._marginal: Marginal | None = None
        with contextlib.suppress(Unavailable):
            work = Workload(Case(shape=SHAPES["tiny"], batch=1), device, Effort.quick())
            calls = [empty(work).timed.calls[0]] * _CALLS
            self._marginal = Marginal(
                capture_space(device), {EMPTY_CHAIN.part: Timed(calls)}, device
            )

    def samplers(self) -> Samplers:
        """Return a sampler each: the host's loop, the copy, and on a GPU the empty chain."""
        found: Samplers = {
            HOST_LOOP: Sampler(lambda: [host_us(_loop) for _ in range(_TIMES)]),
            COPY: Sampler(lambda: [device_us(self._copy, self._device) for _ in range(_TIMES)]),
        }
        if self._marginal is not None:
            found |= self._marginal.samplers(_TIMES)
        return found

    def close(self) -> None:
        """Let everything go."""
        if self._marginal is not None:
            self._marginal.close()
        del self._source, self._target

    def _copy(self) -> None:
        self._target.copy_(self._source)


def _loop() -> int:
    total = 0
    for number in range(2000):
        total += number * number
    return total
