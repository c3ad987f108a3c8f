# SPDX-License-Identifier: Apache-2.0
"""Programmatic dependent launch (PDL): the two device calls, and where they exist.

A producer *signals* that its consumer may start; the consumer *waits* until the producer's whole
grid has completed and its writes are visible. Every program of a consumer waits exactly once on
every path to its exit: completion of the consumer then implies completion of the producer, which
is what makes the next link's wait cover both. So a wait covers everything upstream: the kernel
before it completed after its own wait, hence after the one before that, and so on. conv1d of a
layer waits for the kernel before it, up to the state update of the layer before; its precompute,
conv1d and advance have completed then too, and all scratch may be overwritten.

A kernel's signal is what its consumer relies on before its own wait. precompute signals before it
waits: of what comes before, a state update may rely only on what precompute could. conv1d signals
after its wait: everything ahead of conv1d has completed when precompute, or fused, starts. advance,
the state update and fused signal first thing: conv1d relies on nothing of theirs before its wait.
single signals after its wait, as conv1d does: when the single of the next layer starts, advance and
all layers but this one have completed, and it may rely on what they wrote.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from graphrt.config import PdlLinks

NO_LINKS = PdlLinks(conv1d=False, precompute=False, state_update=False)


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
