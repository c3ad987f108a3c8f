# SPDX-License-Identifier: Apache-2.0
"""What the stages of the chain touch: each kernel's pointer arguments, and which are PDL-linked.

Plain data, for whoever checks the links (`graphrt.capture.audit`): the kernels themselves do not
read it. An argument is called after the tensor it points into, so ``b_ring_ptr`` is ``b_ring`` in
every kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from graphrt.config import PdlLinks


@dataclass(frozen=True, slots=True)
class StageAccess:
    """What one kernel reads and writes: per argument, the tensor.

    older: arguments read before the wait in rows that no kernel still running writes. entry: when
    linked, it follows whatever kernel comes before it, touches before its wait nothing but
    ``constant`` arguments, which no kernel writes, and signals after the wait. behind: an entry
    that is launched behind another of the same launch alone. All before that one has completed, so
    before its wait it may read too what the chain wrote there. asked: arguments that are neither
    read nor written, whose bytes are asked for in L2.
    """

    name: str
    kernel: str
    reads: dict[str, str]
    writes: dict[str, str]
    older: frozenset[str] = frozenset()
    entry: bool = False
    constant: frozenset[str] = frozenset()
    behind: bool = False
    asked: frozenset[str] = frozenset()


def _tensors(*arguments: str) -> dict[str, str]:
    return {argument: argument.removesuffix("_ptr") for argument in arguments}


_CURSORS = (
    "held_ptr",
    "ring_start_ptr",
    "conv_pos_ptr",
    "flushed_ptr",
    "last_tokens_ptr",
    "rand_seed_ptr",
    "accepted_ptr",
)

_ADVANCE = StageAccess(
    "advance",
    "_advance_kernel",
    reads=_tensors("slot_ids_ptr", *_CURSORS),
    writes=_tensors(*_CURSORS, "clamped_ptr", "row_cursors_ptr"),
)
_CONV1D = StageAccess(
    "conv1d",
    "_conv1d_kernel",
    reads=_tensors("xbc_ptr", "weight_ptr", "bias_ptr", "conv_ring_ptr", "row_cursors_ptr"),
    writes=_tensors("conv_ring_ptr", "conv_out_ptr"),
    entry=True,
    constant=frozenset({"weight_ptr", "bias_ptr"}),
)
_TWO = (
    StageAccess(
        "precompute",
        "_precompute_kernel",
        reads=_tensors(
            "conv_out_ptr",
            "dt_ptr",
            "A_ptr",
            "dt_bias_ptr",
            "b_ring_ptr",
            "dt_ring_ptr",
            "row_cursors_ptr",
        ),
        writes=_tensors(
            "b_ring_ptr",
            "dt_ring_ptr",
            "read_c_ptr",
            "causal_ptr",
            "decay_ptr",
            "fold_weight_ptr",
            "fold_decay_ptr",
        ),
        asked=frozenset({"state_ptr"}),
    ),
    StageAccess(
        "state_update",
        "_state_update_kernel",
        reads=_tensors(
            "conv_out_ptr",
            "read_c_ptr",
            "causal_ptr",
            "decay_ptr",
            "fold_weight_ptr",
            "fold_decay_ptr",
            "state_ptr",
            "x_ring_ptr",
            "b_ring_ptr",
            "D_ptr",
            "z_ptr",
            "row_cursors_ptr",
        ),
        writes=_tensors("state_ptr", "x_ring_ptr", "out_ptr"),
        # The fold reads history rows [0, held) while precompute appends [held, held + T) of the
        # same slot; a ring has room for both (`graphrt.ring`).
        older=frozenset({"b_ring_ptr"}),
    ),
)
_FUSED = StageAccess(
    "fused",
    "_fused_kernel",
    reads=_tensors(
        "conv_out_ptr",
        "dt_ptr",
        "A_ptr",
        "dt_bias_ptr",
        "state_ptr",
        "x_ring_ptr",
        "b_ring_ptr",
        "dt_ring_ptr",
        "D_ptr",
        "z_ptr",
        "row_cursors_ptr",
    ),
    writes=_tensors("state_ptr", "x_ring_ptr", "b_ring_ptr", "dt_ring_ptr", "out_ptr"),
)

_WEIGHTS = ("conv_weight_ptr", "conv_bias_ptr", "A_ptr", "dt_bias_ptr", "D_ptr")
_CACHES = ("state_ptr", "x_ring_ptr", "b_ring_ptr", "dt_ring_ptr", "conv_ring_ptr")
_SINGLE = StageAccess(
    "single",
    "_single_kernel",
    reads=_tensors("xbc_ptr", "dt_ptr", "z_ptr", *_WEIGHTS, *_CACHES, "row_cursors_ptr"),
    writes=_tensors(*_CACHES, "out_ptr"),
    entry=True,
    constant=frozenset(_WEIGHTS),
)
_SINGLE_NEXT = replace(
    _SINGLE,
    name="single_next",
    kernel="_single_next_kernel",
    behind=True,
    # The layer before, which may still run, writes the same caches in rows of its own.
    older=frozenset(_CACHES),
)

Last = Literal["state_update", "fused", "single"]
"""By what a layer ends, which says of which kernels it is made."""
_LAYERS: dict[Last, tuple[StageAccess, ...]] = {
    "state_update": (_CONV1D, *_TWO),
    "fused": (_CONV1D, _FUSED),
    "single": (_SINGLE, _SINGLE_NEXT),
}

STAGES = (_ADVANCE, _CONV1D, *_TWO, _FUSED, _SINGLE, _SINGLE_NEXT)
"""All kernels that a chain may have; which it has, `stages_of` says."""


def stages_of(last: Last) -> tuple[StageAccess, ...]:
    """Return a chain's kernels in their order: advance once a launch, the others once a layer.

    Where a layer is a single kernel, ``single`` is the first layer's and ``single_next`` that of
    each other.
    """
    return (_ADVANCE, *_LAYERS[last])


def kernels_of(stages: Sequence[StageAccess], layers: int) -> list[str]:
    """Return the names of the kernels of a launch of a chain of ``stages``, in order."""
    once, *layer = stages
    first = [stage.kernel for stage in layer if not stage.behind]
    others = [stage.kernel for stage in layer if stage.behind] or first
    return [once.kernel, *first, *others * (layers - 1)]


LINK_INTO = {
    "conv1d": "conv1d",
    "precompute": "precompute",
    "state_update": "state_update",
    "fused": "precompute",
    "single": "conv1d",
    "single_next": "conv1d",
}
"""By stage, the link of `PdlLinks` that launches it programmatically; advance has none."""


def linked_stages(links: PdlLinks, stages: Iterable[StageAccess]) -> frozenset[str]:
    """Return the names of the ``stages`` that ``links`` launches programmatically."""
    return frozenset(
        stage.name
        for stage in stages
        if stage.name in LINK_INTO and getattr(links, LINK_INTO[stage.name])
    )
