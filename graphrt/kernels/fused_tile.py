# SPDX-License-Identifier: Apache-2.0
"""What a program of the fused kernels does once all it needs has been asked for.

In the order of arrival: the new tokens' part of the causal matrix, the rings' new rows, the
history's part, the read-out when the state is there, the outputs, a fold where the slot flushes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphrt.config import ChainShape
from graphrt.kernels.compiled import NO_CONTRACTION
from graphrt.kernels.decay import decay_over, fixed_steps, plus
from graphrt.kernels.fold import b_of_history, fold
from graphrt.kernels.fragments import (
    c_layout,
    causal_layout,
    of_one_head_layout,
    out_layout,
    x_layout,
)
from graphrt.kernels.fused_outputs import (
    causal_part,
    checkpoint_part,
    decay_at,
    outputs,
    rows_are_of_p,
)
from graphrt.kernels.gluon import gl, jit
from graphrt.kernels.one_token import is_by_sums
from graphrt.kernels.precompute import softplus
from graphrt.kernels.products import into_range_in_pairs
from graphrt.kernels.renames import by_p, turned, x_rows
from graphrt.kernels.row_cursors import ring_row
from graphrt.kernels.state_tile import wait_for_state, waits_in_shared
from graphrt.kernels.tensors import LayerCache, LayerWeights, Scratch
from graphrt.kernels.token_rows import of_tokens, products_with_b
from graphrt.kernels.tuning import FusedLaunch
from graphrt.memory import padded_tokens, padded_window

_TRITON = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@jit
def fused_tile(
    # of this slot, and head or group
    state_ptr, x_ring_ptr, b_ring_ptr, dt_ring_ptr, out_ptr, stride_out_token, stride_out_dim,
    # the program's head and tile, and its row's cursors
    head, first_row, live, ring_start, held, flush, seed, layer,
    # weights of the head
    a, bias, skip, dt_min, dt_max,
    # what has been asked for, and what products start from
    raw, c_new, b_new, x_new, x_of_y, z, x_past, b_past, dt_past, state, zero,
    # constants
    P: tl.constexpr, N: tl.constexpr, T: tl.constexpr, HEADS_PER_GROUP: tl.constexpr,
    RING_ROWS: tl.constexpr, PLANES: tl.constexpr, READ_C: tl.constexpr,
    HAS_DT_BIAS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, STOCHASTIC: tl.constexpr,
    IN_SHARED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr, V: tl.constexpr, WARPS: tl.constexpr, PAIRED: tl.constexpr,
):  # fmt: skip
    """Write ``out``, append to the rings, fold on a flush."""
    OF_HEAD: tl.constexpr = of_one_head_layout(WARPS)
    token = gl.arange(0, BLOCK_T, layout=OF_HEAD)
    mask_token = (token < T) & live

    # The new tokens: dt, the decays, their part of the causal matrix.
    raw = raw.to(gl.float32)
    if HAS_DT_BIAS:
        raw += bias
    dt_new = gl.minimum(gl.maximum(softplus(raw), dt_min), dt_max)
    dt_new = gl.where(mask_token, dt_new, 0.0)
    cum_new = gl.associative_scan(fixed_steps(dt_new, a), 0, plus)  # after the history
    OF_NEW: tl.constexpr = causal_layout(BLOCK_T, BLOCK_T, WARPS)
    gain_new = decay_over(_at_tokens(cum_new, OF_NEW) - _at_columns(cum_new, OF_NEW, IN_SHARED))
    t = gl.arange(0, BLOCK_T, layout=gl.SliceLayout(1, OF_NEW))[:, None]
    j = gl.arange(0, BLOCK_T, layout=gl.SliceLayout(0, OF_NEW))[None, :]
    gain_new = gl.where(j <= t, gain_new * _at_columns(dt_new, OF_NEW, IN_SHARED), 0.0)
    products_new = of_tokens(products_with_b(c_new, b_new, zero, V, WARPS), BLOCK_T)
    causal_new = gain_new * gl.convert_layout(products_new, OF_NEW, assert_trivial=True)
    C: tl.constexpr = c_layout(BLOCK_T, BLOCK_N, V, WARPS)
    read_c, undo = into_range_in_pairs(c_new, READ_C, V, C)

    # The history grows: each x by who has it, dt by a head's first tile, B by its group's.
    OUT: tl.constexpr = out_layout(BLOCK_T, BLOCK_P, WARPS)
    of_y = gl.arange(0, BLOCK_T, layout=gl.SliceLayout(1, OUT))
    p = first_row + gl.arange(0, BLOCK_P, layout=gl.SliceLayout(0, OUT))
    mask_y = (of_y < T)[:, None] & (p < P)[None, :]
    end = ring_start + held
    gl.store(
        x_ring_ptr + ring_row(end + of_y, RING_ROWS)[:, None] * P + p[None, :],
        x_of_y,
        mask=mask_y & live,
    )
    if first_row == 0:
        gl.store(dt_ring_ptr + ring_row(end + token, RING_ROWS), dt_new, mask=mask_token)
        if head % HEADS_PER_GROUP == 0:
            of_b = gl.arange(0, BLOCK_T, layout=gl.SliceLayout(1, C))
            n = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, C))
            gl.store(
                b_ring_ptr + ring_row(end + of_b, RING_ROWS)[:, None] * N + n[None, :],
                b_new,
                mask=((of_b < T) & live)[:, None] & (n < N)[None, :],
            )

    # The history: its decays, its part of the causal matrix.
    steps_past = fixed_steps(dt_past, a)
    total = gl.sum(steps_past, 0)
    weight = decay_over(total - gl.associative_scan(steps_past, 0, plus)) * dt_past
    OF_PAST: tl.constexpr = causal_layout(BLOCK_T, BLOCK_W, WARPS)
    gain_past = _at_tokens(decay_over(cum_new), OF_PAST)
    gain_past *= _at_columns(weight, OF_PAST, IN_SHARED)
    products_past = of_tokens(products_with_b(c_new, b_past, zero, V, WARPS), BLOCK_T)
    causal_past = gain_past * gl.convert_layout(products_past, OF_PAST, assert_trivial=True)
    if PAIRED:
        x_past = by_p(x_past, WARPS, PAIRED)
        x_new = by_p(x_new, WARPS, PAIRED)

    # The outputs. Where x is turned the causal matrix meets it before the state is waited for: with
    # an fp32 state 0.05 to 0.1 us less at batch 1 to 4. Otherwise it takes up to 2 % longer.
    BY_P: tl.constexpr = rows_are_of_p(state_ptr.dtype.element_ty, BLOCK_P, WARPS)
    decay = decay_at(decay_over(total + cum_new), undo, OUT, WARPS, BY_P)
    if PAIRED:
        within = causal_part(causal_past, causal_new, x_past, x_new, PLANES, WARPS, PAIRED, BY_P)
    wait_for_state(IN_SHARED)
    y = checkpoint_part(
        state, read_c, zero, OUT, BLOCK_P, BLOCK_N, V, WARPS, IN_SHARED, PAIRED, BY_P,
        is_by_sums(state_ptr.dtype.element_ty, T),
    )  # fmt: skip
    if not PAIRED:
        within = causal_part(causal_past, causal_new, x_past, x_new, PLANES, WARPS, PAIRED, BY_P)
    y = outputs(
        y, within, decay, x_new, x_of_y, z, skip, live,
        out_ptr.dtype.element_ty, OUT, HAS_D, HAS_Z, WARPS, PAIRED, BY_P,
    )  # fmt: skip
    gl.store(
        out_ptr + of_y[:, None] * stride_out_token + p[None, :] * stride_out_dim,
        y,
        mask=mask_y,
    )

    if flush:
        TURNED: tl.constexpr = b_past.dtype.primitive_bitwidth == 16
        if TURNED:
            b_folded = turned(b_past, V)
        else:
            b_folded = b_of_history(
                b_ring_ptr, ring_start, held, N, RING_ROWS, BLOCK_W, BLOCK_N, V, WARPS, WARPS
            )
        X: tl.constexpr = x_layout(BLOCK_W, BLOCK_P, WARPS, WARPS, PAIRED)
        of_past = weight if IN_SHARED else _of_columns(weight, OF_PAST, False)
        fold_weight = gl.convert_layout(of_past, gl.SliceLayout(1, X))  # the same threads' rows
        fold(
            state_ptr,
            state,
            first_row,
            x_rows(x_past.to(gl.float32) * fold_weight[:, None], WARPS, WARPS, PAIRED),
            b_folded,
            decay_over(total),
            seed,
            head * (P * ((N + 7) // 8)),
            layer,
            P,
            N,
            STOCHASTIC,
            BLOCK_P,
            BLOCK_N,
            V,
            WARPS,
            IN_SHARED,
            TURNED,
            WARPS,
            PAIRED,
        )


@jit
def _at_tokens(value, LAYOUT: tl.constexpr):
    """Return [tokens] for every column of what is in ``LAYOUT``."""
    return gl.convert_layout(value, gl.SliceLayout(1, LAYOUT))[:, None]


@jit
def _at_columns(value, LAYOUT: tl.constexpr, IN_SHARED: tl.constexpr):
    """Return [columns] for every token of what is in ``LAYOUT``."""
    return _of_columns(value, LAYOUT, IN_SHARED)[None, :]


@jit
def _of_columns(value, LAYOUT: tl.constexpr, IN_SHARED: tl.constexpr):
    """Return one value a token as one a column of ``LAYOUT``.

    By shuffles, where a conversion may go through shared memory: 0.03 to 0.09 us less at batch 1 to
    4. Where a state waits there a launch takes up to 1 % more with them: up to 60 registers.
    """
    OF_COLUMNS: tl.constexpr = gl.SliceLayout(0, LAYOUT)
    if IN_SHARED:
        found = gl.convert_layout(value, OF_COLUMNS)
    else:
        found = gl.gather(value, gl.arange(0, value.shape[0], layout=OF_COLUMNS), 0)
    return found


def tile_constants(
    tokens: int,
    z: Tensor | None,
    weights: LayerWeights,
    cache: LayerCache,
    scratch: Scratch,
    *,
    shape: ChainShape,
    window: int,
    stochastic: bool,
    launch: FusedLaunch,
) -> dict[str, Any]:
    """Return the constants, and the options of a launch, that both fused kernels have."""
    return {
        "H": shape.heads,
        "P": shape.head_dim,
        "N": shape.state_dim,
        "G": shape.groups,
        "T": tokens,
        "RING_ROWS": cache.dt_ring.shape[2],
        "PLANES": scratch.causal.shape[2],
        "READ_C": _TRITON[scratch.read_c.dtype],
        "HAS_DT_BIAS": weights.dt_bias is not None,
        "HAS_D": weights.D is not None,
        "HAS_Z": z is not None,
        "STOCHASTIC": stochastic,
        "IN_SHARED": waits_in_shared(launch, shape.state_dim, cache.state.element_size()),
        "BLOCK_P": launch.block_head_dim,
        "BLOCK_T": padded_tokens(tokens),
        "BLOCK_W": padded_window(window),
        "BLOCK_N": triton.next_power_of_2(shape.state_dim),
        "WARPS": launch.num_warps,
        "num_warps": launch.num_warps,
        **NO_CONTRACTION,
    }
