# SPDX-License-Identifier: Apache-2.0
"""The one-token Triton kernel that came with Mamba: state-spaces' own, or vLLM's copy of it.

Only for T 1. The state is read, stepped and stored.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from graphrt.bench.contender import Contender, SsmInputs, Unavailable, check_recurrence
from graphrt.bench.peers import PEER_LIMIT
from graphrt.bench.timing import Timed
from graphrt.bench.workload import Call, Effort, Workload

NAME = "mamba_one_token"
MODULES = (
    "mamba_ssm.ops.triton.selective_state_update",
    "vllm.model_executor.layers.mamba.ops.mamba_ssm",
)


def build(work: Workload, _: Effort) -> Contender:
    """Return the kernel of the first package that is there, or raise Unavailable."""
    case, shape, weights = work.case, work.case.shape, work.weights
    if case.tokens != 1:
        raise Unavailable("one token a launch only")
    if work.device.type != "cuda":
        raise Unavailable("needs a CUDA device")
    if case.rounding != "nearest" or weights.D is None or weights.dt_bias is None:
        raise Unavailable("written for rounding to nearest, D and dt_bias")
    name, update = _update()
    inputs, state = SsmInputs.of(work), work.cache.state[0]
    dims = (shape.heads, shape.head_dim)
    a = weights.A[:, None, None].expand(*dims, shape.state_dim)
    d = weights.D[:, None].expand(*dims)
    bias = weights.dt_bias[:, None].expand(*dims)
    dt = inputs.dt[:, 0, :, None].expand(case.batch, *dims)
    out = torch.empty_like(work.out)
    takes_out = "out" in inspect.signature(update).parameters

    def step(call: Call) -> Callable[[], Tensor | None]:
        given = (state, inputs.x[:, 0], dt, a, inputs.b[:, 0], inputs.c[:, 0])
        options: dict[str, Any] = {
            "D": d,
            "dt_bias": bias,
            "dt_softplus": True,
            "state_batch_indices": call.slot_ids,
        }
        if takes_out:
            options["out"] = out[:, 0]

        def run() -> Tensor | None:
            result: Tensor | None = update(*given, **options)
            return result

        return run

    calls = [step(call) for call in work.calls]

    def checked(index: int) -> None:
        result = calls[index]()
        if not takes_out and result is not None:
            out[:, 0] = result

    slots = work.calls[0].slot_ids.long()
    return Contender(
        name=NAME,
        timed=Timed(calls),
        check=lambda: check_recurrence(
            NAME, work, checked, lambda _: state[slots][:, None], out, PEER_LIMIT
        ),
        floor="one_token",
        beside="pair",
        settings={"kernel": name},
    )


def _update() -> tuple[str, Any]:
    reasons = []
    for name in MODULES:
        try:
            return name, import_module(name).selective_state_update
        except Exception as error:  # whatever its import needs is not here
            reasons.append(f"{name}: {type(error).__name__}: {error}")
    raise Unavailable("; ".join(reasons))
