# SPDX-License-Identifier: Apache-2.0
"""Kernels that do nothing: what a launch costs at least, and a link behind what does not signal.

empty           three, linked by PDL like a chain where the case is
launch_normal   one, launched normally
launch_linked   one, launched as the dependent of the spacer, which signals nothing
"""

from __future__ import annotations

import triton
import triton.language as tl

from graphrt.bench.contender import Contender, Unavailable
from graphrt.bench.timing import Timed, Work
from graphrt.bench.workload import Workload
from graphrt.config import PdlLinks
from graphrt.kernels.chain import runs_kernels
from graphrt.kernels.pdl import signal_consumer, usable_links, wait_for_producer
from graphrt.kernels.settled import settled


@settled
@triton.jit
def _empty_kernel(WAIT: tl.constexpr, SIGNAL: tl.constexpr, SIGNAL_FIRST: tl.constexpr):
    signal_consumer(SIGNAL and SIGNAL_FIRST)
    wait_for_producer(WAIT)
    signal_consumer(SIGNAL and not SIGNAL_FIRST)


def empty_layer(links: PdlLinks) -> None:
    """Launch three kernels that do nothing, linked like a layer of the chain."""
    linked = (links.conv1d, links.precompute, links.state_update)
    for place, wait in enumerate(linked):
        # Like conv1d, the first signals after its wait; the last signals the next layer's first.
        _empty_kernel[(1,)](
            WAIT=wait,
            SIGNAL=linked[(place + 1) % len(linked)],
            SIGNAL_FIRST=place > 0 or not wait,
            num_warps=1,
            launch_pdl=wait,
        )


def empty_launch(linked: bool) -> None:
    """Launch one kernel that does nothing, as a dependent of the one before it or normally."""
    _empty_kernel[(1,)](
        WAIT=linked, SIGNAL=False, SIGNAL_FIRST=False, num_warps=1, launch_pdl=linked
    )


def empty(work: Workload) -> Contender:
    """Return three kernels that do nothing, linked like the chain."""
    links = usable_links(work.case.links, work.device)
    return _yardstick("empty", work, lambda: empty_layer(links))


def launch_normal(work: Workload) -> Contender:
    """Return one kernel that does nothing, launched normally."""
    return _yardstick("launch_normal", work, lambda: empty_launch(False))


def launch_linked(work: Workload) -> Contender:
    """Return one kernel that does nothing, launched as a dependent; Unavailable without PDL."""
    if not usable_links(work.case.links, work.device).precompute:
        raise Unavailable("without PDL there are no links")
    return _yardstick("launch_linked", work, lambda: empty_launch(True))


def _yardstick(name: str, work: Workload, run: Work) -> Contender:
    if not runs_kernels(work.device):
        raise Unavailable("kernels do not run on this device")
    return Contender(
        name=name,
        timed=Timed([run] * len(work.calls)),
        check=lambda: 0.0,
        floor=None,
        beside="chain",
    )
