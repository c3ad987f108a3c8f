# SPDX-License-Identifier: Apache-2.0
"""Token by token, a state stored for every token, the winner of the last launch copied first."""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphrt.bench.contender import (
    Contender,
    SsmInputs,
    Unavailable,
    best_of,
    check_recurrence,
    recurrence,
)
from graphrt.bench.gate import GateError
from graphrt.bench.timing import Timed, Work
from graphrt.bench.workload import Effort, Workload
from graphrt.kernels.chain import runs_kernels
from graphrt.kernels.precompute import softplus
from graphrt.kernels.settled import settled

_COPY_BLOCK = 4096


@settled
@triton.jit
def _winner_kernel(
    state_ptr,
    snapshots_ptr,
    slot_ids_ptr,
    accepted_ptr,
    stride_state_slot,
    stride_snapshots_slot,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Copy the snapshot after the last accepted token into the state."""
    row = tl.program_id(1)
    slot = tl.load(slot_ids_ptr + row).to(tl.int64)
    token = tl.load(accepted_ptr + row) - 1
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < SIZE
    winner = tl.load(snapshots_ptr + slot * stride_snapshots_slot + token * SIZE + at, mask=mask)
    tl.store(state_ptr + slot * stride_state_slot + at, winner, mask=mask)


@settled
@triton.jit
def _snapshots_kernel(
    # pointers
    state_ptr,
    snapshots_ptr,
    x_ptr,
    b_ptr,
    c_ptr,
    dt_ptr,
    A_ptr,
    dt_bias_ptr,
    D_ptr,
    out_ptr,
    slot_ids_ptr,
    # strides, in elements
    stride_state_slot,
    stride_snapshots_slot,
    stride_x_row,
    stride_x_token,
    stride_dt_row,
    stride_dt_token,
    # limits
    dt_min,
    dt_max,
    # constants
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    G: tl.constexpr,
    T: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Step the state token by token, storing it after each."""
    head = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    group = head // (H // G)
    slot = tl.load(slot_ids_ptr + row).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    mask = (p < P)[:, None] & (n < N)[None, :]
    at = (head * P + p[:, None]) * N + n[None, :]
    state = tl.load(state_ptr + slot * stride_state_slot + at, mask=mask, other=0.0)
    state = state.to(tl.float32)
    a = tl.load(A_ptr + head)
    bias = tl.load(dt_bias_ptr + head).to(tl.float32)
    skip = tl.load(D_ptr + head).to(tl.float32)
    for token in tl.static_range(T):
        raw = tl.load(dt_ptr + row * stride_dt_row + token * stride_dt_token + head)
        dt = tl.minimum(tl.maximum(softplus(raw.to(tl.float32) + bias), dt_min), dt_max)
        tokens = row * stride_x_row + token * stride_x_token
        x = tl.load(x_ptr + tokens + head * P + p, mask=p < P, other=0.0).to(tl.float32)
        b = tl.load(b_ptr + tokens + group * N + n, mask=n < N, other=0.0).to(tl.float32)
        c = tl.load(c_ptr + tokens + group * N + n, mask=n < N, other=0.0).to(tl.float32)
        state = state * tl.exp(dt * a) + (x * dt)[:, None] * b[None, :]
        tl.store(
            snapshots_ptr + slot * stride_snapshots_slot + token * (H * P * N) + at,
            state.to(snapshots_ptr.dtype.element_ty),
            mask=mask,
        )
        y = tl.sum(state * c[None, :], 1) + skip * x
        tl.store(
            out_ptr + ((row * T + token) * H + head) * P + p,
            y.to(out_ptr.dtype.element_ty),
            mask=p < P,
        )


def snapshots(work: Workload, effort: Effort) -> Contender:
    """Return token by token with snapshots: the winner of the last launch copied, then T steps."""
    case, shape = work.case, work.case.shape
    saved = snapshot_buffer(work)
    out = torch.empty_like(work.out)
    inputs, state = SsmInputs.of(work), work.cache.state[0]
    copies = winner_copies(work, saved)

    def steps(block_p: int, warps: int) -> list[Work]:
        grid = (triton.cdiv(shape.head_dim, block_p), shape.heads, case.batch)

        def step(slot_ids: Tensor) -> Work:
            if not runs_kernels(work.device):
                return lambda: _snapshots_reference(work, saved, inputs, out, slot_ids)
            return lambda: _snapshots_kernel[grid](
                state,
                saved,
                inputs.x,
                inputs.b,
                inputs.c,
                inputs.dt,
                work.weights.A,
                work.weights.dt_bias,
                work.weights.D,
                out,
                slot_ids,
                state.stride(0),
                saved.stride(0),
                *inputs.x.stride()[:2],
                *inputs.dt.stride()[:2],
                shape.dt_min,
                shape.dt_max,
                H=shape.heads,
                P=shape.head_dim,
                N=shape.state_dim,
                G=shape.groups,
                T=case.tokens,
                BLOCK_P=block_p,
                BLOCK_N=triton.next_power_of_2(shape.state_dim),
                num_warps=warps,
            )

        return [step(call.slot_ids) for call in work.calls]

    def both(block_p: int, warps: int) -> list[Work]:
        return [_in_order(a, b) for a, b in zip(copies, steps(block_p, warps), strict=True)]

    best, calls, found = best_of(
        {
            f"P {block_p}, {warps} warps": partial(both, block_p, warps)
            for block_p, warps in ((8, 2), (16, 4), (32, 4), (64, 8))
        },
        work,
        effort,
    )
    slots = work.calls[0].slot_ids.long()
    alone = steps(16, 4)

    def check() -> float:
        check_winner_copy(work, saved, copies)
        return check_recurrence(
            "snapshots", work, lambda index: alone[index](), lambda _: saved[slots], out
        )

    return Contender(
        name="snapshots",
        timed=Timed(calls),
        check=check,
        floor="snapshots",
        beside="pair",
        settings={"best": best, "searched_us": found},
    )


def snapshot_buffer(work: Workload) -> Tensor:
    """Return (slots, T, H, P, N) filled with numbers, or raise Unavailable where it does not fit.

    A buffer a slot, not a row: a launch's winner is copied long after it left L2.
    """
    state, tokens = work.cache.state[0], work.case.tokens
    needed = state.numel() * state.element_size() * tokens
    if work.device.type == "cuda" and needed > 0.8 * torch.cuda.mem_get_info(work.device)[0]:
        raise Unavailable(f"{needed / 2**30:.0f} GiB of snapshots do not fit the device")
    saved = torch.empty(
        state.shape[0], tokens, *state.shape[1:], dtype=state.dtype, device=state.device
    )
    return saved.normal_()


def winner_copies(work: Workload, saved: Tensor) -> list[Work]:
    """Return one callable a call that copies the snapshot after the last accepted token."""
    state = work.cache.state[0]
    size = state[0].numel()

    def copy(index: int) -> Work:
        slot_ids, accepted = work.calls[index].slot_ids, work.accepted[index].clone()
        if not runs_kernels(work.device):
            slots = slot_ids.long()

            def plain() -> None:
                state[slots] = saved[slots, accepted.long() - 1]

            return plain
        grid = (triton.cdiv(size, _COPY_BLOCK), work.case.batch)
        return lambda: _winner_kernel[grid](
            state,
            saved,
            slot_ids,
            accepted,
            state.stride(0),
            saved.stride(0),
            SIZE=size,
            BLOCK=_COPY_BLOCK,
            num_warps=8,
        )

    return [copy(index) for index in range(len(work.calls))]


def check_winner_copy(work: Workload, saved: Tensor, copies: list[Work]) -> None:
    """Require that the first call's copy moves exactly the winners; the state is put back."""
    slots = work.calls[0].slot_ids.long()
    before = work.cache.state[0, slots].clone()
    copies[0]()
    right = saved[slots, work.accepted[0].long() - 1]
    if not torch.equal(work.cache.state[0, slots], right):
        raise GateError("winner copy: the state is not the snapshot after the last accepted token")
    work.cache.state[0, slots] = before


def _in_order(first: Work, second: Work) -> Work:
    def run() -> None:
        first()
        second()

    return run


def _snapshots_reference(
    work: Workload, saved: Tensor, inputs: SsmInputs, out: Tensor, slot_ids: Tensor
) -> None:
    slots = slot_ids.long()
    y, states = recurrence(work, work.cache.state[0, slots], inputs)
    out.copy_(y)
    saved[slots] = states.to(saved.dtype)
