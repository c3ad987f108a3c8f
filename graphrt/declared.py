# SPDX-License-Identifier: Apache-2.0
"""What a runtime says of its graphs: which buffers they may point at, what they look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from graphrt.cache import ReplayCache
from graphrt.capture.inspect.contract import ALLOCATIONS, COPIES, GraphContract
from graphrt.capture.inspect.manifest import Manifest, Padding, Role
from graphrt.capture.inspect.triton_names import is_compiled_kernel
from graphrt.kernels.chain import BoundChain
from graphrt.kernels.links import STAGES
from graphrt.kernels.tensors import SCRATCH

_ROLES = {
    "state": Role.STATE,
    "x_ring": Role.RING,
    "b_ring": Role.RING,
    "dt_ring": Role.RING,
    "conv_ring": Role.RING,
    "held": Role.CURSOR,
    "ring_start": Role.CURSOR,
    "conv_pos": Role.CURSOR,
    "flushed": Role.CURSOR,
    "last_tokens": Role.CURSOR,
    "accepted": Role.CURSOR,
    "clamped": Role.CURSOR,
    "rand_seed": Role.SEED,
}
# Launched once a launch, or by whoever likes; all other kernels of the chain once a layer, but
# where those behind the first layer have a kernel of their own.
_ONCE = STAGES[0].kernel
_AT_WILL = "_accept_kernel"
_ENTRIES = frozenset(stage.kernel for stage in STAGES if stage.entry)
_BEHIND = frozenset(stage.kernel for stage in STAGES if stage.behind)


@runtime_checkable
class Declares(Protocol):
    """A step that says what it reads beside its buffers and the cache.

    outputs: the names of the buffers it writes. only_chain: it launches the chain and nothing else;
    where it says no, layers of a single kernel are launched normally (`BoundChain.links`). A step
    without these is captured too; its pointers are then not required to be declared.
    """

    outputs: frozenset[str]
    only_chain: bool

    def declare_weights(self, manifest: Manifest) -> None:
        """Declare every tensor that the step reads beside its buffers and the cache."""


def cache_manifest(cache: ReplayCache, step: object) -> Manifest:
    """Return the buffers that all graphs of a runtime share: caches, scratch, weights."""
    manifest = Manifest()
    config, cursors = cache.config, cache.cursors
    for name, role in _ROLES.items():
        tensor = getattr(cursors, name, None)
        tensor = getattr(cache, name) if tensor is None else tensor
        manifest.declare(name, tensor, role, Padding.UNTOUCHED)
    scratch = cache.scratch(config.buckets[-1], config.tokens)
    for name in SCRATCH:
        manifest.declare(name, getattr(scratch, name), Role.SCRATCH, Padding.IGNORED)
    if isinstance(step, Declares):
        step.declare_weights(manifest)
    return manifest


def graph_manifest(
    shared: Manifest, step: object, slot_ids: Tensor, tensors: Mapping[str, Tensor]
) -> Manifest:
    """Return ``shared`` with what one (bucket, T) has of its own: ``slot_ids``, the step's buffers.

    A buffer whose name is taken is called ``buffers.NAME``.
    """
    manifest = shared.copy()
    manifest.declare("slot_ids", slot_ids, Role.INPUT, Padding.MARKED)
    for name, tensor in tensors.items():
        role = Role.STATIC
        if isinstance(step, Declares):
            role = Role.OUTPUT if name in step.outputs else Role.INPUT
        free = name if name not in manifest else f"buffers.{name}"
        manifest.declare(free, tensor, role, Padding.IGNORED)
    return manifest


def has_own_kernels(step: object) -> bool:
    """Return whether ``step`` states that it launches more than the chain."""
    return isinstance(step, Declares) and not step.only_chain


def chain_contract(chain: BoundChain, layers: int, step: object) -> GraphContract:
    """Return what a graph of ``step`` must look like, from the kernels that ``chain`` launched.

    advance once; every other kernel of the chain once a layer, whichever kernels those are; where
    some are launched behind the first layer, the others of a layer there alone.
    """
    names = {str(k.metadata.name) for k in chain.compiled if is_compiled_kernel(k)}
    behind = layers - 1 if names & _BEHIND else 0
    counts = {name: layers - behind for name in sorted(names - {_AT_WILL})}
    counts |= {name: 1 if name == _ONCE else behind for name in names & {_ONCE, *_BEHIND}}
    only = isinstance(step, Declares) and step.only_chain
    return GraphContract(
        counts,
        only=only,
        forbidden=ALLOCATIONS | COPIES if only else ALLOCATIONS,
        declared=isinstance(step, Declares),
        entries=_ENTRIES,
        behind=_BEHIND,
    )
