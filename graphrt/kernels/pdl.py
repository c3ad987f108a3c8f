# SPDX-License-Identifier: Apache-2.0
"""Programmatic dependent launch (PDL): the two device calls, and where they exist.

A producer *signals* that its consumer may start; the consumer *waits* until the producer's whole
grid has completed and its writes are visible. Every program of a consumer waits exactly once on
every path to its exit: completion of the consumer then implies completion of the producer, which
is what makes the next link's wait cover both.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from graphrt.config import PdlLinks

NO_LINKS = PdlLinks(precompute=False, state_update=False)


@triton.jit
def wait_for_producer(LINKED: tl.constexpr):
    """Block until the kernel before has completed, where the launch is linked to it."""
    if LINKED:
        tl.extra.cuda.gdc_wait()


@triton.jit
def signal_consumer(LINKED: tl.constexpr):
    """Let the kernel after start, where its launch is linked to this one."""
    if LINKED:
        tl.extra.cuda.gdc_launch_dependents()


def pdl_supported(device: torch.device) -> bool:
    """Return whether ``device`` has programmatic dependent launch: an NVIDIA GPU from sm_90 on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def usable_links(links: PdlLinks, device: torch.device) -> PdlLinks:
    """Return ``links`` where ``device`` supports them, none of them elsewhere."""
    return links if pdl_supported(device) else NO_LINKS
