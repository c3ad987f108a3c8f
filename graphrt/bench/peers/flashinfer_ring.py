# SPDX-License-Identifier: Apache-2.0
"""FlashInfer's ``checkpointing_ssu``: rings and a lazy store like ours, in CUDA C++.

Its ring contract is the chain's (R = W + T rows, flush when held + T > W), so it runs on the very
same caches and cursors. Its launch settings are searched: what its public call chooses and, through
the runner that its own autotuner uses, the monolithic kernel and the split one with pipeline
stages, CTAs per multiprocessor, heads per CTA and the split of P; each with PDL, where the case has
it, and without, which are two libraries. Written against 0.7.2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch

from graphrt.bench.contender import Contender, SsmInputs, Unavailable, best_of, convolve
from graphrt.bench.gate import check_chain
from graphrt.bench.peers import PEER_LIMIT
from graphrt.bench.timing import Timed, Work
from graphrt.bench.workload import Call, Effort, Workload

NAME = "flashinfer_ring"
MOST_WINDOW = 16

Tactic = tuple[int, int, int, int]
"""Pipeline stages, CTAs per multiprocessor, heads per precompute CTA, split of P; zeros in the
first three are the monolithic kernel."""


def build(work: Workload, effort: Effort) -> Contender:
    """Return the fastest setting found, or raise Unavailable."""
    case = work.case
    if work.device.type != "cuda":
        raise Unavailable("needs a CUDA device")
    if case.window > MOST_WINDOW:
        raise Unavailable(f"window {case.window}: takes at most {MOST_WINDOW}")
    if case.rounding != "nearest":
        raise Unavailable("one seed for all slots: only timed with rounding to nearest")
    if case.activation_dtype == torch.float32:
        raise Unavailable("16-bit activations only")
    try:
        module = import_module("flashinfer.mamba.checkpointing_ssu")
    except Exception as error:  # whatever its import needs is not here
        raise Unavailable(f"flashinfer: {type(error).__name__}: {error}") from error

    variants: dict[str, Callable[[], list[Work]]] = {}
    for pdl in (True, False) if case.pdl else (False,):
        call, suffix = _Ring(work, module, pdl), " PDL" * pdl
        variants[f"auto{suffix}"] = call.public
        for tactic in tactics(case.shape.heads_per_group, case.shape.head_dim):
            variants[f"{tactic}{suffix}"] = partial(call.with_tactic, tactic)
    best, calls, found = best_of(variants, work, effort)
    return Contender(
        name=NAME,
        timed=Timed(calls),
        check=lambda: check_chain(
            NAME,
            work,
            lambda index: calls[index](),
            limit=PEER_LIMIT,
            conv_out=lambda index: convolve(work, index),
        ),
        floor="pair",
        beside="pair",
        settings={"best": best, "searched_us": found},
    )


def tactics(heads_per_group: int, head_dim: int) -> list[Tactic]:
    """Return the settings that are searched: a grid over what its autotuner's varies."""
    splits = [split for split in (1, 2) if head_dim % split == 0 and head_dim // split >= 32]
    heads = sorted({max(1, heads_per_group >> shift) for shift in (0, 1, 2)}, reverse=True)
    found: list[Tactic] = [(0, 0, 0, split) for split in splits]
    found += [
        (stages, ctas, per_cta, split)
        for split in splits
        for stages in (1, 2)
        for ctas in (2, 4, 6, 16)
        for per_cta in heads
    ]
    return found


class _Ring:
    """Binds the workload's tensors to the two ways of calling it."""

    def __init__(self, work: Workload, module: Any, pdl: bool) -> None:
        self._work, self._module, self._pdl = work, module, pdl
        case, shape, weights = work.case, work.case.shape, work.weights
        self._inputs = SsmInputs.of(work)
        dims = (shape.heads, shape.head_dim)
        if weights.D is None or weights.dt_bias is None:
            raise Unavailable("written for weights with D and dt_bias")
        self._a = weights.A[:, None, None].expand(*dims, shape.state_dim)
        self._d = weights.D[:, None].expand(*dims)
        self._bias = weights.dt_bias[:, None].expand(*dims)
        self._dt = self._inputs.dt[..., None].expand(*self._inputs.dt.shape, shape.head_dim)
        self._scratch = module.allocate_checkpointing_ssu_scratch(
            case.batch, shape.heads, case.tokens, case.window, case.activation_dtype, work.device
        )

    def public(self) -> list[Work]:
        """Return calls of the public function with its own choice."""
        return [self._public(call) for call in self._work.calls]

    def with_tactic(self, tactic: Tactic) -> list[Work]:
        """Return calls of the autotuner's runner with a setting of ours."""
        return [self._tactic(call, tactic) for call in self._work.calls]

    def _public(self, call: Call) -> Work:
        layer, cursors, inputs = call.after.layer(0), call.after.cursors, self._inputs
        cb_scaled, cum, cb_old = self._scratch

        def run() -> None:
            self._module.checkpointing_ssu(
                layer.state,
                layer.x_ring,
                layer.b_ring,
                layer.dt_ring,
                cursors.ring_start,
                cursors.held,
                inputs.x,
                self._dt,
                self._a,
                inputs.b,
                inputs.c,
                self._work.out,
                D=self._d,
                dt_bias=self._bias,
                dt_softplus=True,
                state_batch_indices=call.slot_ids,
                enable_pdl=self._pdl,
                cb_scaled=cb_scaled,
                cumAdt_vec=cum,
                cb_old=cb_old,
            )

        return run

    def _tactic(self, call: Call, tactic: Tactic) -> Work:
        case, shape = self._work.case, self._work.case.shape
        layer, cursors, inputs = call.after.layer(0), call.after.cursors, self._inputs
        tensors = [
            layer.state,
            inputs.x,
            self._dt,
            self._a,
            inputs.b,
            inputs.c,
            self._work.out,
            layer.x_ring,
            layer.b_ring,
            layer.dt_ring,
            cursors.ring_start,
            cursors.held,
            self._d,
            None,  # z
            self._bias,
            call.slot_ids,
            None,  # state_scale
            None,  # rand_seed
            None,  # cu_seqlens
            *self._scratch,
        ]
        runner = self._module.CheckpointingSSURunner(
            (
                case.state_dtype,
                case.activation_dtype,
                case.activation_dtype,  # of dt
                self._d.dtype,
                self._a.dtype,
                call.slot_ids.dtype,
                None,  # state_scale
                shape.head_dim,
                shape.state_dim,
                case.tokens,
                case.window,
                shape.heads_per_group,
                shape.groups,
                0,  # philox_rounds
                self._pdl,
            ),
            dt_softplus=True,
            pad_slot_id=-1,
            requested_algorithm=0,
            requested_d_split=0,
            precompute_heads_per_cta=0,
            heads_per_group=shape.heads_per_group,
            optional_tensor_presence=(True, False, True, True, False, False, False),
        )
        return lambda: runner.forward(tensors, tactic=tactic)
