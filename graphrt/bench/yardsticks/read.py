# SPDX-License-Identifier: Apache-2.0
"""The state read once and the two products: what the output costs without a history."""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphrt.bench.contender import (
    Contender,
    SsmInputs,
    best_of,
    convolve,
)
from graphrt.bench.gate import bound, check_rows
from graphrt.bench.timing import Timed, Work
from graphrt.bench.workload import Effort, Workload
from graphrt.kernels.chain import runs_kernels
from graphrt.kernels.dot import dot, into_range
from graphrt.kernels.whole_lines import whole_lines


@whole_lines
@triton.jit
def _read_kernel(
    # pointers
    state_ptr,
    x_ptr,
    c_ptr,
    causal_ptr,
    out_ptr,
    slot_ids_ptr,
    # strides, in elements
    stride_state_slot,
    stride_x_row,
    stride_x_token,
    # constants
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    G: tl.constexpr,
    T: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Write C·S0ᵀ + causal·x, the causal matrix given as (T, T)."""
    head = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    group = head // (H // G)
    slot = tl.load(slot_ids_ptr + row).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    token = tl.arange(0, BLOCK_T)
    state = tl.load(
        state_ptr + slot * stride_state_slot + (head * P + p[:, None]) * N + n[None, :],
        mask=(p < P)[:, None] & (n < N)[None, :],
        other=0.0,
    )
    tokens = row * stride_x_row + token[:, None] * stride_x_token
    is_token = (token < T)[:, None]
    c = tl.load(
        c_ptr + tokens + (group * N + n)[None, :], mask=is_token & (n < N)[None, :], other=0.0
    )
    mask_x = is_token & (p < P)[None, :]
    x = tl.load(x_ptr + tokens + (head * P + p)[None, :], mask=mask_x, other=0.0)
    causal = tl.load(
        causal_ptr + token[:, None] * T + token[None, :],
        mask=is_token & (token < T)[None, :],
        other=0.0,
    )
    fp16: tl.constexpr = c.dtype == tl.bfloat16 and state.dtype == tl.float16
    moved, undo = into_range(c, tl.float16 if fp16 else c.dtype)
    y = dot(moved, tl.trans(state)) * undo[:, None] + dot(causal, x)
    tl.store(
        out_ptr + ((row * T + token[:, None]) * H + head) * P + p[None, :],
        y.to(out_ptr.dtype.element_ty),
        mask=mask_x,
    )


def read(work: Workload, effort: Effort) -> Contender:
    """Return the bare read of the state with the two products."""
    case, shape = work.case, work.case.shape
    inputs, state = SsmInputs.of(work), work.cache.state[0]
    out = torch.empty_like(work.out)
    causal = torch.rand(case.tokens, case.tokens, device=work.device).tril()

    def reads(block_p: int, warps: int) -> list[Work]:
        grid = (triton.cdiv(shape.head_dim, block_p), shape.heads, case.batch)

        def one(slot_ids: Tensor) -> Work:
            if not runs_kernels(work.device):
                return lambda: out.copy_(_read_reference(work, inputs, causal, slot_ids))
            return lambda: _read_kernel[grid](
                state,
                inputs.x,
                inputs.c,
                causal,
                out,
                slot_ids,
                state.stride(0),
                *inputs.x.stride()[:2],
                H=shape.heads,
                P=shape.head_dim,
                N=shape.state_dim,
                G=shape.groups,
                T=case.tokens,
                BLOCK_P=block_p,
                BLOCK_T=max(16, triton.next_power_of_2(case.tokens)),
                BLOCK_N=triton.next_power_of_2(shape.state_dim),
                num_warps=warps,
            )

        return [one(call.slot_ids) for call in work.calls]

    best, calls, found = best_of(
        {
            f"P {block_p}, {warps} warps": partial(reads, block_p, warps)
            for block_p, warps in ((16, 1), (16, 4), (32, 4), (64, 4))
        },
        work,
        effort,
    )

    def check() -> float:
        convolve(work, 0)
        right = _read_reference(work, inputs, causal, work.calls[0].slot_ids)
        out.fill_(float("nan"))
        calls[0]()
        return check_rows("read: y", out, right, bound(case.activation_dtype))

    return Contender(
        name="read",
        timed=Timed(calls),
        check=check,
        floor="read",
        beside="state_update",
        settings={"best": best, "searched_us": found},
    )


def _read_reference(work: Workload, inputs: SsmInputs, causal: Tensor, slot_ids: Tensor) -> Tensor:
    shape = work.case.shape
    state = work.cache.state[0, slot_ids.long()].float()  # [rows, H, P, N]
    c = inputs.c.float().repeat_interleave(shape.heads_per_group, dim=2)  # [rows, T, H, N]
    y = torch.einsum("bthn,bhpn->bthp", c, state)
    return y + torch.einsum("tj,bjhp->bthp", causal, inputs.x.float())
