# SPDX-License-Identifier: Apache-2.0
"""Three kernels that do nothing, linked by PDL where the case is: what a launch costs at least.

Behind another layer, which signals, the first is linked too; behind an ordinary kernel, which does
not, it had better be launched normally.
"""

from __future__ import annotations

import triton
import triton.language as tl

from graphrt.bench.contender import Contender, Unavailable
from graphrt.bench.stages import behind_an_ordinary_kernel
from graphrt.bench.timing import Timed
from graphrt.bench.workload import Workload
from graphrt.config import PdlLinks
from graphrt.kernels.chain import runs_kernels
from graphrt.kernels.pdl import signal_consumer, usable_links, wait_for_producer


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


def empty(work: Workload) -> Contender:
    """Return three kernels that do nothing, linked like a layer behind another."""
    return _empty("empty", work, work.case.links)


def empty_normal(work: Workload) -> Contender:
    """Return three kernels that do nothing, the first launched normally, as the chain is timed."""
    return _empty("empty_normal", work, behind_an_ordinary_kernel(work.case.links, "conv1d"))


def _empty(name: str, work: Workload, links: PdlLinks) -> Contender:
    if not runs_kernels(work.device):
        raise Unavailable("kernels do not run on this device")
    links = usable_links(links, work.device)
    return Contender(
        name=name,
        timed=Timed([lambda: empty_layer(links)] * len(work.calls)),
        check=lambda: 0.0,
        floor=None,
        beside="chain",
    )
