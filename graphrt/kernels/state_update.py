# SPDX-License-Identifier: Apache-2.0
"""state update: the launch's outputs, and the fold of the history into the checkpoint on a flush.

    y_t = decay_t * (S0 C_t) + sum_j causal[t, j] x_j + D x_t,  times silu(z_t) where z is given
    on a flush: S0 <- exp(cum_h) S0 + sum_j exp(cum_h - cum_j) dt_j x_j B_j^T   over the history

The outputs read S0 as it was, flush or not. They are computed with P first: a product takes 16 rows
or 8 columns, and few tokens are the rule.

The unit of work is a tile, some rows of P of one head. A program with one tile loads state and
history before its wait, and folds there, from the tile in hand; with ``loads_first`` all that it
loads on either side of the wait is on its way before the first of it is used, which saves trips to
memory and takes registers. One with several tiles waits, then goes through them in a loop that
fetches the tiles to come while it computes one, then through the folds in another that reads the
state again, from L2: one loop for both needs so many registers that half as many programs fit on a
multiprocessor, in every launch that does not flush too.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from graphrt.config import ChainShape, PdlLinks
from graphrt.kernels.compiled import NO_CONTRACTION, Compiled
from graphrt.kernels.decay import decay_over, fixed_steps, fold_weights
from graphrt.kernels.dot import dot, dot_planes
from graphrt.kernels.fold import fold, fold_tiles
from graphrt.kernels.pdl import wait_for_producer
from graphrt.kernels.ptx import arrived, exp
from graphrt.kernels.row_cursors import (
    FLUSHED,
    HELD,
    RAND_SEED,
    RING_START,
    ROW,
    SLOT,
    row_cursor,
)
from graphrt.kernels.tensors import LayerCache, LayerInputs, LayerWeights, Scratch
from graphrt.kernels.tuning import StateUpdateLaunch, largest_divisor
from graphrt.memory import PADDED_TOKENS, padded_tokens, padded_window


@triton.jit(do_not_specialize=["layer"])
def _state_update_kernel(
    # pointers
    conv_out_ptr,
    read_c_ptr,
    causal_ptr,
    decay_ptr,
    fold_weight_ptr,
    fold_decay_ptr,
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
    stride_read_row,
    stride_read_group,
    stride_read_token,
    stride_causal_row,
    stride_causal_head,
    stride_causal_plane,
    stride_causal_token,
    stride_decay_row,
    stride_decay_head,
    stride_weight_row,
    stride_weight_head,
    stride_fold_row,
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
    LOADS_FIRST: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FOLD_P: tl.constexpr,
    FOLD_STAGES: tl.constexpr,
):
    line = tl.program_id(1).to(tl.int64)
    P_BLOCKS: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    first_tile = tl.program_id(0) * TILES
    group = first_tile // (H // G * P_BLOCKS)
    row = row_cursor(row_cursors_ptr, line, ROW)
    slot = row_cursor(row_cursors_ptr, line, SLOT)
    held = row_cursor(row_cursors_ptr, line, HELD).to(tl.int32)
    ring_start = row_cursor(row_cursors_ptr, line, RING_START).to(tl.int32)
    flush = row_cursor(row_cursors_ptr, line, FLUSHED) != 0
    seed = row_cursor(row_cursors_ptr, line, RAND_SEED) if STOCHASTIC else 0
    live = slot >= 0

    n = tl.arange(0, BLOCK_N)
    token = tl.arange(0, BLOCK_T)
    new = tl.arange(0, BLOCK_J)  # the same tokens as columns of the causal matrix
    past = tl.arange(0, BLOCK_W)
    is_token = token < T
    is_past = past < held  # held is 0 in padding rows
    past_row = (ring_start + past) % RING_ROWS
    new_row = (ring_start + held + token) % RING_ROWS
    mask_n = (n < N)[None, :]

    state_ptr += slot * stride_state_slot
    x_ring_ptr += slot * stride_x_slot
    b_past_ptrs = (
        b_ring_ptr + slot * stride_b_slot + group * stride_b_group + past_row[:, None] * N + n
    )
    dt_ring_ptr += slot * stride_dt_slot
    conv_out_ptr += row * stride_conv_row
    c_ptrs = read_c_ptr + row * stride_read_row + group * stride_read_group + n[None, :]
    c_ptrs += token[:, None] * stride_read_token
    mask_c = is_token[:, None] & mask_n
    causal_ptr += row * stride_causal_row
    decay_ptr += row * stride_decay_row

    if TILES > 1:
        wait_for_producer(WAIT)
    for i in tl.range(0, TILES, num_stages=STAGES):
        tile = first_tile + i
        head = tile // P_BLOCKS
        p = tile % P_BLOCKS * BLOCK_P + tl.arange(0, BLOCK_P)
        is_p = p < P
        mask_state = is_p[:, None] & mask_n & live
        mask_x = is_token[:, None] & is_p[None, :]
        state_ptrs = state_ptr + (head * P + p[:, None]) * N + n[None, :]
        state = tl.load(state_ptrs, mask=mask_state, other=0.0)  # [BLOCK_P, BLOCK_N]
        x_past = tl.load(
            x_ring_ptr + (head * RING_ROWS + past_row[None, :]) * P + p[:, None],
            mask=is_past[None, :] & is_p[:, None],
            other=0.0,
        )  # [BLOCK_P, BLOCK_W]
        if HAS_D:
            skip = tl.load(D_ptr + head).to(tl.float32)
        if TILES == 1:
            is_folded = is_past & flush
            b_past = tl.load(b_past_ptrs, mask=is_folded[:, None] & mask_n, other=0.0)
            dt_past = tl.load(dt_ring_ptr + head * RING_ROWS + past_row, mask=is_folded, other=0.0)
            a = tl.load(A_ptr + head)
            if LOADS_FIRST:
                state, x_past, b_past = arrived(state), arrived(x_past), arrived(b_past)
            if flush:
                tl.debug_barrier()  # in a small tile another thread loads what this one stores
                steps = fixed_steps(dt_past, a)
                total = tl.sum(steps, 0)
                quads = (head * P + p[:, None]) * ((N + 3) // 4) + tl.arange(0, BLOCK_N // 4)
                fold(
                    state,
                    state_ptrs,
                    mask_state,
                    x_past,
                    b_past,
                    fold_weights(steps, dt_past, total, 0),
                    decay_over(total),
                    seed,
                    quads,
                    layer,
                    STOCHASTIC,
                )
            wait_for_producer(WAIT)
        c_new = tl.load(c_ptrs, mask=mask_c, other=0.0)  # [BLOCK_T, BLOCK_N]
        x_ptrs = conv_out_ptr + head * P + p
        x_new = tl.load(
            x_ptrs[:, None] + new[None, :] * stride_conv_token,
            mask=(new < T)[None, :] & is_p[:, None],
            other=0.0,
        )  # [BLOCK_P, BLOCK_J], for a product; once more as the outputs lie, for D and the ring
        x_token = tl.load(
            x_ptrs[None, :] + token[:, None] * stride_conv_token, mask=mask_x, other=0.0
        )  # [BLOCK_T, BLOCK_P]
        causal_ptrs = causal_ptr + head * stride_causal_head + token[:, None] * stride_causal_token
        past_ptrs = causal_ptrs + past[None, :]
        new_ptrs = causal_ptrs + BLOCK_W + new[None, :]
        mask_causal = is_token[:, None]
        causal_past = tl.load(past_ptrs, mask=mask_causal, other=0.0)
        causal_new = tl.load(new_ptrs, mask=mask_causal, other=0.0)
        low_past, low_new = causal_past, causal_new
        if PLANES == 2:
            low_past = tl.load(past_ptrs + stride_causal_plane, mask=mask_causal, other=0.0)
            low_new = tl.load(new_ptrs + stride_causal_plane, mask=mask_causal, other=0.0)
        decay = tl.load(decay_ptr + head * stride_decay_head + token, mask=is_token, other=0.0)
        if TILES == 1 and LOADS_FIRST:
            c_new, x_new, x_token = arrived(c_new), arrived(x_new), arrived(x_token)
            causal_past, causal_new = arrived(causal_past), arrived(causal_new)
            if PLANES == 2:
                low_past, low_new = arrived(low_past), arrived(low_new)
        y = dot(state, tl.trans(c_new)) * decay[None, :]  # [BLOCK_P, BLOCK_T]
        y += dot_planes(x_past, x_new, causal_past, causal_new, low_past, low_new, PLANES)
        y = tl.trans(y)
        if HAS_D:
            y += x_token.to(tl.float32) * skip
        if HAS_Z:
            z = tl.load(
                z_ptr
                + row * stride_z_row
                + token[:, None] * stride_z_token
                + head * stride_z_head
                + p[None, :] * stride_z_dim,
                mask=mask_x & live,
                other=0.0,
            ).to(tl.float32)
            y *= z / (1.0 + exp(-z))
        tl.store(
            out_ptr
            + row * stride_out_row
            + token[:, None] * stride_out_token
            + head * stride_out_head
            + p[None, :] * stride_out_dim,
            y.to(out_ptr.dtype.element_ty),
            mask=mask_x,
        )
        tl.store(
            x_ring_ptr + (head * RING_ROWS + new_row[:, None]) * P + p[None, :],
            x_token,
            mask=mask_x & live,
        )
    if TILES > 1 and flush:
        tl.debug_barrier()  # other threads store what this one has just loaded
        fold_tiles(
            state_ptr,
            x_ring_ptr,
            b_past_ptrs,
            fold_weight_ptr + row * stride_weight_row,
            fold_decay_ptr + row * stride_fold_row,
            past_row,
            is_past,
            first_tile,
            seed,
            layer,
            stride_weight_head,
            P,
            N,
            RING_ROWS,
            STOCHASTIC,
            TILES,
            FOLD_STAGES,
            BLOCK_P,
            BLOCK_W,
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
    block, fold_rows, tiles = _cut(shape, launch)
    grid = (shape.heads * triton.cdiv(shape.head_dim, block) // tiles, rows)
    block_n = triton.next_power_of_2(shape.state_dim)
    return _state_update_kernel[grid](
        scratch.conv_out,
        scratch.read_c,
        scratch.causal,
        scratch.decay,
        scratch.fold_weight,
        scratch.fold_decay,
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
        *scratch.read_c.stride()[:3],
        *scratch.causal.stride()[:4],
        *scratch.decay.stride()[:2],
        *scratch.fold_weight.stride()[:2],
        scratch.fold_decay.stride(0),
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
        LOADS_FIRST=launch.loads_first,
        STAGES=launch.stages,
        BLOCK_P=block,
        BLOCK_T=padded_tokens(tokens),
        BLOCK_J=PADDED_TOKENS,
        BLOCK_W=padded_window(window),
        BLOCK_N=block_n,
        FOLD_P=fold_rows,
        FOLD_STAGES=launch.fold_stages,
        num_warps=launch.num_warps,
        maxnreg=launch.max_registers,
        launch_pdl=links.state_update,
        **NO_CONTRACTION,
    )


def _cut(shape: ChainShape, launch: StateUpdateLaunch) -> tuple[int, int, int]:
    """Return the rows of P of a block and of a fold's tile, and the blocks that a program handles.

    A single block is folded as it is, so it has no more rows than a fold.
    """
    block, fold_rows = launch.block_head_dim, min(launch.fold_rows, launch.block_head_dim)
    tiles = largest_divisor(
        shape.heads_per_group * triton.cdiv(shape.head_dim, block), launch.tiles
    )
    return (fold_rows, fold_rows, 1) if tiles == 1 else (block, fold_rows, tiles)
