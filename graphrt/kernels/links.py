# SPDX-License-Identifier: Apache-2.0
"""What the stages of the chain touch: each kernel's pointer arguments, and which are PDL-linked.

Plain data, for whoever checks the links (`graphrt.capture.audit`): the kernels themselves do not
read it. An argument is called after the tensor it points into, so ``b_ring_ptr`` is ``b_ring`` in
every kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphrt.config import PdlLinks


@dataclass(frozen=True, slots=True)
class StageAccess:
    """What one kernel reads and writes: per argument, the tensor.

    older: arguments read before the wait in rows that no kernel still running writes. entry: when
    linked, it follows whatever kernel comes before it, touches before its wait nothing but
    ``constant`` arguments, which no kernel writes, and signals after the wait. asked: arguments
    that are neither read nor written, whose bytes are asked for in L2.
    """

    name: str
    kernel: str
    reads: dict[str, str]
    writes: dict[str, str]
    older: frozenset[str] = frozenset()
    entry: bool = False
    constant: frozenset[str] = frozenset()
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

_START = (
    StageAccess(
        "advance",
        "_advance_kernel",
        reads=_tensors("slot_ids_ptr", *_CURSORS),
        writes=_tensors(*_CURSORS, "clamped_ptr", "row_cursors_ptr"),
    ),
    StageAccess(
        "conv1d",
        "_conv1d_kernel",
        reads=_tensors("xbc_ptr", "weight_ptr", "bias_ptr", "conv_ring_ptr", "row_cursors_ptr"),
        writes=_tensors("conv_ring_ptr", "conv_out_ptr"),
        entry=True,
        constant=frozenset({"weight_ptr", "bias_ptr"}),
    ),
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
_ONE = StageAccess(
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

STAGES = (*_START, *_TWO, _ONE)
"""All kernels that a chain may have; which it has, `stages_of` says."""


def stages_of(*, fused: bool) -> tuple[StageAccess, ...]:
    """Return a chain's kernels in their order: advance once a launch, the others once a layer."""
    return (*_START, _ONE) if fused else (*_START, *_TWO)


def linked_stages(links: PdlLinks, stages: Iterable[StageAccess]) -> frozenset[str]:
    """Return the names of the ``stages`` that ``links`` launches programmatically."""
    named = {
        "conv1d": links.conv1d,
        "precompute": links.precompute,
        "state_update": links.state_update,
        "fused": links.precompute,
    }
    return frozenset(stage.name for stage in stages if named.get(stage.name, False))
