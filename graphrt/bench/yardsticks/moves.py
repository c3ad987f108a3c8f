# SPDX-License-Identifier: Apache-2.0
"""What a launch must move, moved by one kernel that computes nothing: what the bytes cost.

The bytes of `graphrt.bench.traffic`'s ``pair``, each read or written once, in the launch that the
pair has, by its cursors: the state, the history and the new tokens are read; x is written as y and
appended to its ring, B and dt to theirs, dt without its sign, since a peer that finds negative ones
beyond its history may overflow; where the slot flushes the state is written, negated, so that the
gate sees it. What is read and not written is folded into a word nobody looks at.
"""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphrt.bench.contender import Contender, SsmInputs, Unavailable, best_of, convolve
from graphrt.bench.gate import GateError, put_back, rows_of
from graphrt.bench.timing import Timed, Work
from graphrt.bench.workload import Call, Effort, Workload
from graphrt.errors import sentence
from graphrt.kernels.chain import runs_kernels
from graphrt.kernels.row_cursors import FLUSHED, HELD, RING_START, ROW, SLOT, ring_row, row_cursor
from graphrt.kernels.whole_lines import whole_lines
from graphrt.memory import padded_tokens, padded_window

_UNLIKELY = tl.constexpr(0x5EED5EED)
# Rows of P of a program, warps, and whether rows asked for at once lie half a tile apart.
_VARIANTS = ((8, 1, False), (16, 1, False), (32, 1, True), (64, 1, True))


@triton.jit
def _look_at(sink_ptr, words):
    """Need every one of ``words`` [rows, columns], int32, and write nothing but by chance."""
    found = tl.xor_sum(words, 0)
    tl.store(sink_ptr + tl.arange(0, words.shape[1]), found, mask=found == _UNLIKELY)


@whole_lines
@triton.jit
def _moves_kernel(
    # pointers, to words of 32 bits but for dt
    state_ptr,
    x_ring_ptr,
    b_ring_ptr,
    dt_ring_ptr,
    conv_out_ptr,
    dt_ptr,
    out_ptr,
    sink_ptr,
    row_cursors_ptr,
    # strides: words, dt's elements
    stride_state_slot,
    stride_x_slot,
    stride_b_slot,
    stride_dt_slot,
    stride_conv_row,
    stride_conv_token,
    stride_dt_row,
    stride_dt_token,
    stride_out_row,
    stride_out_token,
    # constants; P of x, B and N in words
    H: tl.constexpr,
    P: tl.constexpr,
    G: tl.constexpr,
    T: tl.constexpr,
    RING_ROWS: tl.constexpr,
    X_WORDS: tl.constexpr,
    B_WORDS: tl.constexpr,
    STATE_WORDS: tl.constexpr,
    SIGNS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
    APART: tl.constexpr,
):
    BLOCKS: tl.constexpr = P // BLOCK_P
    BLOCK_X: tl.constexpr = X_WORDS // BLOCKS
    line = tl.program_id(1).to(tl.int64)
    head = tl.program_id(0) // BLOCKS
    block = tl.program_id(0) % BLOCKS
    group = head // (H // G)
    slot = row_cursor(row_cursors_ptr, line, SLOT).to(tl.int64)
    row = row_cursor(row_cursors_ptr, line, ROW).to(tl.int64)
    ring_start = row_cursor(row_cursors_ptr, line, RING_START)
    held = row_cursor(row_cursors_ptr, line, HELD)
    flush = row_cursor(row_cursors_ptr, line, FLUSHED) != 0

    token, past = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_W)
    is_token, is_past = (token < T)[:, None], (past < held)[:, None]
    old = ring_row(ring_start + past, RING_ROWS)[:, None]
    new = (ring_start + held + token) % RING_ROWS
    conv_ptrs = conv_out_ptr + row * stride_conv_row + token[:, None] * stride_conv_token
    x_at = block * BLOCK_X + tl.arange(0, BLOCK_X)[None, :]
    x = tl.load(conv_ptrs + head * X_WORDS + x_at, mask=is_token, other=0)
    x_ring_ptr += slot * stride_x_slot + head * (RING_ROWS * X_WORDS)
    x_past = tl.load(x_ring_ptr + old * X_WORDS + x_at, mask=is_past, other=0)
    p = tl.arange(0, BLOCK_P)
    if APART:
        p = p % 2 * (BLOCK_P // 2) + p // 2
    p = (head * P + block * BLOCK_P + p)[:, None]
    words = tl.arange(0, STATE_WORDS)[None, :]
    state_ptrs = state_ptr + slot * stride_state_slot + p * STATE_WORDS + words
    state = tl.load(state_ptrs)
    if block == 0:
        dt_ptrs = dt_ptr + row * stride_dt_row + head + token * stride_dt_token
        dt = tl.load(dt_ptrs, mask=token < T, other=0.0)
        dt_ring_ptr += slot * stride_dt_slot + head * RING_ROWS
        dt_past = tl.load(dt_ring_ptr + old, mask=is_past, other=0.0)
        _look_at(sink_ptr, dt_past.to(tl.int32, bitcast=True))
        tl.store(dt_ring_ptr + new, tl.abs(dt.to(tl.float32)), mask=token < T)
        if head % (H // G) == 0:
            b_at = tl.arange(0, B_WORDS)[None, :]
            b_ptrs = conv_ptrs + H * X_WORDS + group * B_WORDS + b_at
            b = tl.load(b_ptrs, mask=is_token, other=0)
            c = tl.load(b_ptrs + G * B_WORDS, mask=is_token, other=0)
            b_ring_ptr += slot * stride_b_slot + group * (RING_ROWS * B_WORDS)
            b_past = tl.load(b_ring_ptr + old * B_WORDS + b_at, mask=is_past, other=0)
            _look_at(sink_ptr, c)
            _look_at(sink_ptr, b_past)
            tl.store(b_ring_ptr + new[:, None] * B_WORDS + b_at, b, mask=is_token)
    out_ptrs = out_ptr + row * stride_out_row + token[:, None] * stride_out_token
    tl.store(out_ptrs + head * X_WORDS + x_at, x, mask=is_token)
    tl.store(x_ring_ptr + new[:, None] * X_WORDS + x_at, x, mask=is_token)
    _look_at(sink_ptr, x_past)
    _look_at(sink_ptr, state)
    if flush:
        tl.store(state_ptrs, state ^ SIGNS)


def moves(work: Workload, effort: Effort) -> Contender:
    """Return what a launch of the pair must move, moved, with nothing computed.

    Raises Unavailable for sizes that are no whole tiles.
    """
    case, shape = work.case, work.case.shape
    if any(size & (size - 1) for size in (shape.head_dim, shape.state_dim)):
        raise Unavailable("head_dim and state_dim must be powers of two")
    inputs, out = SsmInputs.of(work), torch.empty_like(work.out)
    scratch = work.cache.scratch(case.batch, case.tokens)
    sink = torch.empty(1024, dtype=torch.int32, device=work.device)

    def moved(most_p: int, warps: int, apart: bool) -> list[Work]:
        block_p = min(most_p, shape.head_dim)
        grid = (shape.heads * (shape.head_dim // block_p), case.batch)

        def one(call: Call) -> Work:
            if not runs_kernels(work.device):
                return lambda: moved_by_torch(call, inputs, out)
            layer = call.after.layer(0)
            state, x_ring, b_ring = (
                tensor.view(torch.int32) for tensor in (layer.state, layer.x_ring, layer.b_ring)
            )
            conv_out, y = scratch.conv_out.view(torch.int32), out.view(torch.int32)
            return lambda: _moves_kernel[grid](
                state,
                x_ring,
                b_ring,
                layer.dt_ring,
                conv_out,
                inputs.dt,
                y,
                sink,
                call.after.scratch(case.batch, case.tokens).row_cursors,
                state.stride(0),
                x_ring.stride(0),
                b_ring.stride(0),
                layer.dt_ring.stride(0),
                *conv_out.stride()[:2],
                *inputs.dt.stride()[:2],
                *y.stride()[:2],
                H=shape.heads,
                P=shape.head_dim,
                G=shape.groups,
                T=case.tokens,
                RING_ROWS=layer.dt_ring.shape[2],
                X_WORDS=x_ring.shape[3],
                B_WORDS=b_ring.shape[3],
                STATE_WORDS=state.shape[3],
                SIGNS=-0x80000000 if layer.state.element_size() == 4 else -0x7FFF8000,
                BLOCK_P=block_p,
                BLOCK_T=padded_tokens(case.tokens),
                BLOCK_W=padded_window(case.window),
                APART=apart,
                num_warps=warps,
            )

        return [one(call) for call in work.calls]

    best, calls, found = best_of(
        {
            f"P {block_p}, {warps} warps{', apart' * apart}": partial(moved, block_p, warps, apart)
            for block_p, warps, apart in _VARIANTS
        },
        work,
        effort,
    )

    def check() -> float:
        call = work.calls[0]
        convolve(work, 0)
        saved = rows_of(call)
        moved_by_torch(call, inputs, out)
        right, y = rows_of(call), out.clone()
        put_back(call, saved)
        out.fill_(float("nan"))
        calls[0]()
        got = rows_of(call)
        put_back(call, saved)
        wrong = [
            name
            for name in ("state", "x_ring", "b_ring", "dt_ring")
            if not torch.equal(getattr(got, name), getattr(right, name))
        ]
        if not torch.equal(out, y):
            wrong.append("y")
        if wrong:
            said = "must be moved, bit for bit"
            raise GateError(sentence("moves", " and ".join(wrong), said, "mend it first"))
        return 0.0

    return Contender(
        name="moves",
        timed=Timed(calls),
        check=check,
        floor="pair",
        beside="pair",
        settings={"best": best, "searched_us": found},
    )


def moved_by_torch(call: Call, inputs: SsmInputs, out: Tensor) -> None:
    """Move what the kernel moves: new tokens to the rings, x to ``out``, the signs of a flush."""
    layer, cursors, slots = call.after.layer(0), call.after.cursors, call.slot_ids.long()
    tokens = torch.arange(out.shape[1], device=out.device)
    first = cursors.ring_start[slots] + cursors.held[slots]
    new = (first[:, None] + tokens).long() % layer.dt_ring.shape[2]  # [rows, T]
    for ring, values in (
        (layer.x_ring, inputs.x),
        (layer.b_ring, inputs.b),
        (layer.dt_ring, inputs.dt.float().abs()),
    ):
        ring[slots[:, None], :, new] = values
    flushed = slots[cursors.flushed[slots].bool()]
    layer.state[flushed] = -layer.state[flushed]
    out.copy_(inputs.x)
