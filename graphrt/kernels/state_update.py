# SPDX-License-Identifier: Apache-2.0
"""state update: the launch's outputs, and the fold of the history into the checkpoint on a flush.

    y_t = decay_t * (S0 C_t) + sum_j causal[t, j] x_j + D x_t,  times silu(z_t) where z is given
    on a flush: S0 <- exp(cum_h) S0 + sum_j exp(cum_h - cum_j) dt_j x_j B_j^T   over the history

The outputs read S0 as it was, flush or not. A flush reads the state a second time, from L2: held in
registers for both uses, it would leave room for half as many programs on a multiprocessor, in every
launch that does not flush too.

The unit of work is a tile, some rows of P of one head. A program with one tile loads state and
history, and folds, before its wait. One with several goes through them in a loop that fetches the
tiles to come while it computes one, then through the folds in another; no loop crosses the wait.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from graphrt.config import ChainShape, PdlLinks
from graphrt.kernels.compiled import NO_CONTRACTION, Compiled
from graphrt.kernels.decay import decay_over, fixed_steps
from graphrt.kernels.dot import dot, dot_planes, read_out
from graphrt.kernels.pdl import wait_for_producer
from graphrt.kernels.rounding import round_stochastic, stochastic_words
from graphrt.kernels.row_cursors import (
    FLUSHED,
    HELD,
    RAND_SEED,
    RING_START,
    SLOT,
    row_cursor,
)
from graphrt.kernels.tensors import LayerCache, LayerInputs, LayerWeights, Scratch
from graphrt.kernels.tuning import StateUpdateLaunch, largest_divisor
from graphrt.memory import PADDED_TOKENS, padded_window


@triton.jit
def _fold_history(
    # pointers, of this slot and group
    state_ptr,
    x_ring_ptr,
    b_ring_ptr,
    dt_ring_ptr,
    A_ptr,
    # the history, and the first of this program's tiles
    past_row,
    is_past,
    first_tile,
    # random draws
    seed,
    layer,
    # constants
    P: tl.constexpr,
    N: tl.constexpr,
    RING_ROWS: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    TILES: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FOLD_P: tl.constexpr,
):
    """Store the tiles' state after the whole history, FOLD_P rows of P at a time."""
    P_BLOCKS: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    FOLDS: tl.constexpr = BLOCK_P // FOLD_P
    n = tl.arange(0, BLOCK_N)
    quad = tl.arange(0, BLOCK_N // 4)
    mask_n = (n < N)[None, :]
    b_past = tl.load(
        b_ring_ptr + past_row[:, None] * N + n[None, :],
        mask=is_past[:, None] & mask_n,
        other=0.0,
    )  # [BLOCK_W, BLOCK_N]
    for i in tl.range(0, TILES * FOLDS, num_stages=STAGES):
        tile = first_tile + i // FOLDS
        head = tile // P_BLOCKS
        p = tile % P_BLOCKS * BLOCK_P + i % FOLDS * FOLD_P + tl.arange(0, FOLD_P)
        is_p = p < P
        state_ptrs = state_ptr + (head * P + p[:, None]) * N + n[None, :]
        state = tl.load(state_ptrs, mask=is_p[:, None] & mask_n, other=0.0)
        x_past = tl.load(
            x_ring_ptr + (head * RING_ROWS + past_row[:, None]) * P + p[None, :],
            mask=is_past[:, None] & is_p[None, :],
            other=0.0,
        )  # [BLOCK_W, FOLD_P]
        dt_past = tl.load(dt_ring_ptr + head * RING_ROWS + past_row, mask=is_past, other=0.0)
        steps = fixed_steps(dt_past, tl.load(A_ptr + head))
        total = tl.sum(steps, 0)
        weight = decay_over(total - tl.cumsum(steps, 0)) * dt_past
        weighted = x_past.to(tl.float32) * weight[:, None]  # few, and B stays in registers
        folded = state.to(tl.float32) * decay_over(total) + dot(tl.trans(weighted), b_past)
        if STOCHASTIC:
            quads = (head * P + p[:, None]) * ((N + 3) // 4) + quad[None, :]
            words = stochastic_words(seed, quads.to(tl.uint32), layer, FOLD_P, BLOCK_N // 4)
            stored = round_stochastic(folded, words, state_ptr.dtype.element_ty)
        else:
            stored = folded.to(state_ptr.dtype.element_ty)
        tl.store(state_ptrs, stored, mask=is_p[:, None] & mask_n)


@triton.jit(do_not_specialize=["layer"])
def _state_update_kernel(
    # pointers
    conv_out_ptr,
    causal_ptr,
    decay_ptr,
    state_ptr,
    x_ring_ptr,
    b_ring_ptr,
    dt_ring_ptr,
    A_ptr,
    D_ptr,
    z_ptr,
    out_ptr,
    row_cursors_ptr,
    # sizes
    layer,
    # strides, in elements
    stride_conv_row,
    stride_conv_token,
    stride_causal_row,
    stride_causal_head,
    stride_causal_plane,
    stride_causal_token,
    stride_decay_row,
    stride_decay_head,
    stride_state_slot,
    stride_x_slot,
    stride_b_slot,
    stride_b_group,
    stride_dt_slot,
    stride_z_row,
    stride_z_token,
    stride_z_head,
    stride_z_dim,
    stride_out_row,
    stride_out_token,
    stride_out_head,
    stride_out_dim,
    # constants
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    G: tl.constexpr,
    T: tl.constexpr,
    RING_ROWS: tl.constexpr,
    PLANES: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    WAIT: tl.constexpr,
    TILES: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FOLD_P: tl.constexpr,
    FOLD_STAGES: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    P_BLOCKS: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    first_tile = tl.program_id(0) * TILES
    group = first_tile // (H // G * P_BLOCKS)
    slot = row_cursor(row_cursors_ptr, row, SLOT)
    held = row_cursor(row_cursors_ptr, row, HELD).to(tl.int32)
    ring_start = row_cursor(row_cursors_ptr, row, RING_START).to(tl.int32)
    flush = row_cursor(row_cursors_ptr, row, FLUSHED) != 0
    seed = row_cursor(row_cursors_ptr, row, RAND_SEED) if STOCHASTIC else 0
    live = slot >= 0

    n = tl.arange(0, BLOCK_N)
    token = tl.arange(0, BLOCK_T)
    past = tl.arange(0, BLOCK_W)
    is_new = (token < T) & live
    is_past = past < held  # held is 0 in padding rows
    past_row = (ring_start + past) % RING_ROWS
    new_row = (ring_start + held + token) % RING_ROWS
    mask_n = (n < N)[None, :]

    state_ptr += slot * stride_state_slot
    x_ring_ptr += slot * stride_x_slot
    b_ring_ptr += slot * stride_b_slot + group * stride_b_group
    dt_ring_ptr += slot * stride_dt_slot
    conv_ptrs = conv_out_ptr + row * stride_conv_row + token[:, None] * stride_conv_token
    c_ptrs = conv_ptrs + (H * P + G * N + group * N + n)[None, :]
    mask_c = is_new[:, None] & mask_n
    causal_ptr += row * stride_causal_row
    decay_ptr += row * stride_decay_row

    if TILES > 1:
        wait_for_producer(WAIT)
        c_new = tl.load(c_ptrs, mask=mask_c, other=0.0)  # [BLOCK_T, BLOCK_N]
    for i in tl.range(0, TILES, num_stages=STAGES):
        tile = first_tile + i
        head = tile // P_BLOCKS
        p = tile % P_BLOCKS * BLOCK_P + tl.arange(0, BLOCK_P)
        mask_state = (p < P)[:, None] & mask_n & live
        mask_x = is_new[:, None] & (p < P)[None, :]
        state_ptrs = state_ptr + (head * P + p[:, None]) * N + n[None, :]
        state = tl.load(state_ptrs, mask=mask_state, other=0.0)  # [BLOCK_P, BLOCK_N]
        x_past = tl.load(
            x_ring_ptr + (head * RING_ROWS + past_row[:, None]) * P + p[None, :],
            mask=is_past[:, None] & (p < P)[None, :],
            other=0.0,
        )  # [BLOCK_W, BLOCK_P]
        if TILES == 1:
            if flush:
                tl.debug_barrier()  # other threads store what this one has just loaded
                _fold_history(
                    state_ptr,
                    x_ring_ptr,
                    b_ring_ptr,
                    dt_ring_ptr,
                    A_ptr,
                    past_row,
                    is_past,
                    first_tile,
                    seed,
                    layer,
                    P,
                    N,
                    RING_ROWS,
                    STOCHASTIC,
                    TILES,
                    FOLD_STAGES,
                    BLOCK_P,
                    BLOCK_N,
                    FOLD_P,
                )
            wait_for_producer(WAIT)
            c_new = tl.load(c_ptrs, mask=mask_c, other=0.0)
        x_new = tl.load(conv_ptrs + (head * P + p)[None, :], mask=mask_x, other=0.0)
        decay = tl.load(decay_ptr + head * stride_decay_head + token, mask=is_new, other=0.0)
        y = read_out(c_new, state) * decay[:, None]  # [BLOCK_T, BLOCK_P]
        causal_ptrs = causal_ptr + head * stride_causal_head + token[:, None] * stride_causal_token
        y += dot_planes(
            causal_ptrs + past[None, :],
            causal_ptrs + BLOCK_W + token[None, :],
            stride_causal_plane,
            is_new[:, None],
            x_past,
            x_new,
            PLANES,
        )
        if HAS_D:
            y += x_new.to(tl.float32) * tl.load(D_ptr + head).to(tl.float32)
        if HAS_Z:
            z = tl.load(
                z_ptr
                + row * stride_z_row
                + token[:, None] * stride_z_token
                + head * stride_z_head
                + p[None, :] * stride_z_dim,
                mask=mask_x,
                other=0.0,
            ).to(tl.float32)
            y *= z / (1.0 + tl.exp(-z))
        tl.store(
            out_ptr
            + row * stride_out_row
            + token[:, None] * stride_out_token
            + head * stride_out_head
            + p[None, :] * stride_out_dim,
            y.to(out_ptr.dtype.element_ty),
            mask=(token < T)[:, None] & (p < P)[None, :],
        )
        tl.store(
            x_ring_ptr + (head * RING_ROWS + new_row[:, None]) * P + p[None, :],
            x_new,
            mask=mask_x,
        )
    if TILES > 1 and flush:
        tl.debug_barrier()  # other threads store what this one has just loaded
        _fold_history(
            state_ptr,
            x_ring_ptr,
            b_ring_ptr,
            dt_ring_ptr,
            A_ptr,
            past_row,
            is_past,
            first_tile,
            seed,
            layer,
            P,
            N,
            RING_ROWS,
            STOCHASTIC,
            TILES,
            FOLD_STAGES,
            BLOCK_P,
            BLOCK_N,
            FOLD_P,
        )


def state_update(
    inputs: LayerInputs,
    weights: LayerWeights,
    cache: LayerCache,
    scratch: Scratch,
    out: Tensor,
    *,
    shape: ChainShape,
    window: int,
    stochastic: bool,
    links: PdlLinks,
    launch: StateUpdateLaunch,
) -> Compiled:
    """Write ``out`` (rows, T, H, P); append x to its ring; fold and store the state on a flush.

    With one tile a program, everything older than this launch (state, history) is read, and the
    fold stored, before the wait; x, C and the scratch only after it. With several, all of it is
    after. Padding rows give zeros and touch no cache.
    """
    rows, tokens = out.shape[:2]
    z = inputs.z
    fold_rows = min(launch.fold_rows, launch.block_head_dim)
    blocks = triton.cdiv(shape.head_dim, launch.block_head_dim)
    tiles = largest_divisor(shape.heads_per_group * blocks, launch.tiles)
    grid = (shape.heads * blocks // tiles, rows)
    return _state_update_kernel[grid](
        scratch.conv_out,
        scratch.causal,
        scratch.decay,
        cache.state,
        cache.x_ring,
        cache.b_ring,
        cache.dt_ring,
        weights.A,
        weights.D,
        z,
        out,
        scratch.row_cursors,
        cache.layer,
        scratch.conv_out.stride(0),
        scratch.conv_out.stride(1),
        *scratch.causal.stride()[:4],
        *scratch.decay.stride()[:2],
        cache.state.stride(0),
        cache.x_ring.stride(0),
        cache.b_ring.stride(0),
        cache.b_ring.stride(1),
        cache.dt_ring.stride(0),
        *(z.stride() if z is not None else (0, 0, 0, 0)),
        *out.stride(),
        H=shape.heads,
        P=shape.head_dim,
        N=shape.state_dim,
        G=shape.groups,
        T=tokens,
        RING_ROWS=cache.dt_ring.shape[2],
        PLANES=scratch.causal.shape[2],
        HAS_D=weights.D is not None,
        HAS_Z=z is not None,
        STOCHASTIC=stochastic,
        WAIT=links.state_update,
        TILES=tiles,
        STAGES=launch.stages,
        BLOCK_P=launch.block_head_dim,
        BLOCK_T=PADDED_TOKENS,
        BLOCK_W=padded_window(window),
        BLOCK_N=triton.next_power_of_2(shape.state_dim),
        FOLD_P=fold_rows,
        FOLD_STAGES=launch.fold_stages,
        num_warps=launch.num_warps,
        maxnreg=launch.max_registers,
        launch_pdl=links.state_update,
        **NO_CONTRACTION,
    )
