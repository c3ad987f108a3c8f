# SPDX-License-Identifier: Apache-2.0
"""The fold: the history goes into the checkpoint, of which the state update stores the result.

S0 <- exp(cum_h) S0 + sum_j exp(cum_h - cum_j) dt_j x_j B_j^T   over the history
"""

from __future__ import annotations

import triton
import triton.language as tl

from graphrt.kernels.dot import dot
from graphrt.kernels.rounding import round_stochastic, stochastic_words


@triton.jit
def fold(
    state,
    state_ptrs,
    mask,
    x_past,
    b_past,
    weight,
    decay,
    seed,
    quads,
    layer,
    STOCHASTIC: tl.constexpr,
):
    """Store a tile's state after the whole history.

    state: [P', N] at state_ptrs. x_past: [P', W']. b_past: [W', N]. weight: [W'], 0 after the
    history. decay: of the state. quads: [P', N / 4], the numbers of the tile's random draws.
    """
    weighted = x_past.to(tl.float32) * weight[None, :]  # few, and B stays in registers
    dtype: tl.constexpr = state_ptrs.dtype.element_ty
    parts: tl.constexpr = 3 if dtype == tl.float32 else 2  # 16 bits, of which 11 or 8 are stored
    folded = state.to(tl.float32) * decay + dot(weighted, b_past, parts)
    if STOCHASTIC:
        words = stochastic_words(
            seed, quads.to(tl.uint32), layer, quads.type.shape[0], quads.type.shape[1]
        )
        stored = round_stochastic(folded, words, dtype)
    else:
        stored = folded.to(dtype)
    tl.store(state_ptrs, stored, mask=mask)


@triton.jit
def fold_tiles(
    # pointers, of this slot, group and row
    state_ptr,
    x_ring_ptr,
    b_past_ptrs,
    fold_weight_ptr,
    fold_decay_ptr,
    # the history, and the first of this program's tiles
    past_row,
    is_past,
    first_tile,
    # random draws
    seed,
    layer,
    # strides, in elements
    stride_weight_head,
    # constants
    P: tl.constexpr,
    N: tl.constexpr,
    RING_ROWS: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    TILES: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FOLD_P: tl.constexpr,
):
    """Read the tiles' state again and fold it, FOLD_P rows of P at a time."""
    P_BLOCKS: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    FOLDS: tl.constexpr = BLOCK_P // FOLD_P
    n = tl.arange(0, BLOCK_N)
    quad = tl.arange(0, BLOCK_N // 4)
    past = tl.arange(0, BLOCK_W)
    mask_n = (n < N)[None, :]
    b_past = tl.load(b_past_ptrs, mask=is_past[:, None] & mask_n, other=0.0)  # [BLOCK_W, BLOCK_N]
    for i in tl.range(0, TILES * FOLDS, num_stages=STAGES):
        tile = first_tile + i // FOLDS
        head = tile // P_BLOCKS
        p = tile % P_BLOCKS * BLOCK_P + i % FOLDS * FOLD_P + tl.arange(0, FOLD_P)
        is_p = p < P
        mask_state = is_p[:, None] & mask_n
        state_ptrs = state_ptr + (head * P + p[:, None]) * N + n[None, :]
        state = tl.load(state_ptrs, mask=mask_state, other=0.0)
        x_past = tl.load(
            x_ring_ptr + (head * RING_ROWS + past_row[None, :]) * P + p[:, None],
            mask=is_past[None, :] & is_p[:, None],
            other=0.0,
        )  # [FOLD_P, BLOCK_W]
        weight = tl.load(fold_weight_ptr + head * stride_weight_head + past)
        decay = tl.load(fold_decay_ptr + head)
        quads = (head * P + p[:, None]) * ((N + 3) // 4) + quad[None, :]
        fold(
            state,
            state_ptrs,
            mask_state,
            x_past,
            b_past,
            weight,
            decay,
            seed,
            quads,
            layer,
            STOCHASTIC,
        )
