# SPDX-License-Identifier: Apache-2.0
"""FlashInfer's ``selective_state_update`` with a state stored per token, plus the winner copy.

The copy of the last launch's winner comes first and is ours (`yardsticks.snapshots`), since the
package leaves it to its caller; without it the scheme would be flattered. For T 1 the state is
updated in place and there is nothing to copy. Its algorithm is searched. Written against 0.7.2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch

from graphrt.bench.contender import Contender, SsmInputs, Unavailable, best_of, check_recurrence
from graphrt.bench.peers import PEER_LIMIT
from graphrt.bench.timing import Timed, Work
from graphrt.bench.workload import Call, Effort, Workload
from graphrt.bench.yardsticks.snapshots import check_winner_copy, snapshot_buffer, winner_copies

NAME = "flashinfer_snapshots"
ALGORITHMS = ("auto", "simple", "vertical", "horizontal")


def build(work: Workload, effort: Effort) -> Contender:
    """Return the fastest algorithm found, or raise Unavailable."""
    case, shape, weights = work.case, work.case.shape, work.weights
    if work.device.type != "cuda":
        raise Unavailable("needs a CUDA device")
    if case.rounding != "nearest":
        raise Unavailable("only timed with rounding to nearest")
    if weights.D is None or weights.dt_bias is None:
        raise Unavailable("written for weights with D and dt_bias")
    try:
        module: Any = import_module("flashinfer.mamba.selective_state_update")
    except Exception as error:  # whatever its import needs is not here
        raise Unavailable(f"flashinfer: {type(error).__name__}: {error}") from error

    inputs, state = SsmInputs.of(work), work.cache.state[0]
    dims = (shape.heads, shape.head_dim)
    # A, D and dt_bias in the dtypes its kernels are built for: A fp32, the weights the inputs'.
    a = weights.A[:, None, None].expand(*dims, shape.state_dim)
    d = weights.D.to(case.activation_dtype)[:, None].expand(*dims)
    bias = weights.dt_bias.to(case.activation_dtype)[:, None].expand(*dims)
    dt = inputs.dt[..., None].expand(*inputs.dt.shape, shape.head_dim)
    several = case.tokens > 1
    saved = snapshot_buffer(work) if several else None
    copies = winner_copies(work, saved) if saved is not None else None
    out = torch.empty_like(work.out)

    def steps(algorithm: str) -> list[Work]:
        def step(call: Call) -> Work:
            if saved is None:
                return lambda: module.selective_state_update(
                    state,
                    inputs.x[:, 0],
                    dt[:, 0],
                    a,
                    inputs.b[:, 0],
                    inputs.c[:, 0],
                    d,
                    dt_bias=bias,
                    dt_softplus=True,
                    state_batch_indices=call.slot_ids,
                    out=out[:, 0],
                    algorithm=algorithm,
                )
            return lambda: module.selective_state_update(
                state,
                inputs.x,
                dt,
                a,
                inputs.b,
                inputs.c,
                d,
                dt_bias=bias,
                dt_softplus=True,
                state_batch_indices=call.slot_ids,
                out=out,
                disable_state_update=True,
                intermediate_states_buffer=saved,
                intermediate_state_indices=call.slot_ids,
                cache_steps=case.tokens,
                algorithm=algorithm,
            )

        return [step(call) for call in work.calls]

    def whole(algorithm: str) -> list[Work]:
        stepping = steps(algorithm)
        if copies is None:
            return stepping

        def both(copy: Work, step: Work) -> Work:
            def run() -> None:
                copy()
                step()

            return run

        return [both(copy, step) for copy, step in zip(copies, stepping, strict=True)]

    variants: dict[str, Callable[[], list[Work]]] = {
        name: partial(whole, name) for name in ALGORITHMS
    }
    best, calls, found = best_of(variants, work, effort)
    slots, alone = work.calls[0].slot_ids.long(), steps(best)

    def check() -> float:
        if saved is not None and copies is not None:
            check_winner_copy(work, saved, copies)
        return check_recurrence(
            NAME, work, lambda index: alone[index](), lambda _: stored[slots], out, PEER_LIMIT
        )

    stored = state[:, None] if saved is None else saved
    return Contender(
        name=NAME,
        timed=Timed(calls),
        check=check,
        floor="snapshots" if several else "one_token",
        beside="pair",
        settings={"best": best, "searched_us": found, "winner_copy": several},
    )
