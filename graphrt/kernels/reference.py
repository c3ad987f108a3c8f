# SPDX-License-Identifier: Apache-2.0
"""The chain's stages in plain PyTorch: the kernels' twins, and what runs where there is no GPU.

Same names and arguments as the launchers, less what only a launch needs, and the cursors by slot
with ``slot_ids`` where the kernels read ``scratch.row_cursors``. Like the kernels they
select the rows they may read before any arithmetic, compute in fp32, and write zeros in padding
rows. They are correct on any device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from graphrt.config import ChainShape
from graphrt.kernels.rounding import round_stochastic_reference, state_words
from graphrt.kernels.row_cursors import fill_row_cursors
from graphrt.kernels.tensors import (
    Cursors,
    LayerCache,
    LayerInputs,
    LayerWeights,
    Scratch,
)
from graphrt.memory import padded_tokens


def advance_reference(
    slot_ids: Tensor,
    cursors: Cursors,
    row_cursors: Tensor,
    *,
    tokens: int,
    window: int,
    ring_rows: int,
    conv_rows: int,
) -> None:
    """Twin of `advance`: commit the accepted counts, decide this launch's flushes.

    The other twins read the cursors by slot; ``row_cursors`` is filled as the kernel fills it.
    """
    slot = slot_ids[slot_ids >= 0].long()
    accepted, last_tokens = cursors.accepted[slot], cursors.last_tokens[slot]
    kept = torch.minimum(accepted.clamp(min=0), last_tokens)
    broken = kept != accepted
    if broken.any():
        cursors.clamped[slot[broken].to(cursors.clamped.device)] = accepted[broken].to(
            cursors.clamped.device
        )
        cursors.clamped[-1] = 1
    held, flushed = cursors.held[slot], cursors.flushed[slot].bool()
    start = cursors.ring_start[slot]
    cursors.ring_start[slot] = torch.where(flushed, (start + held) % ring_rows, start)
    held = torch.where(flushed, kept, held + kept)
    cursors.held[slot] = held
    cursors.conv_pos[slot] = (cursors.conv_pos[slot] + kept) % conv_rows
    cursors.flushed[slot] = (held + tokens > window).int()
    cursors.last_tokens[slot] = tokens
    cursors.rand_seed[slot] += 1
    cursors.accepted[slot] = 0
    fill_row_cursors(row_cursors, slot_ids, cursors)


def accept_reference(slot_ids: Tensor, counts: Tensor, accepted: Tensor) -> None:
    """Twin of `accept`: ``accepted[slot_ids[row]] = counts[row]`` for every live row."""
    live = slot_ids >= 0
    accepted[slot_ids[live].long()] = counts[live].to(accepted.dtype)


def conv1d_reference(
    inputs: LayerInputs,
    weights: LayerWeights,
    cache: LayerCache,
    cursors: Cursors,
    slot_ids: Tensor,
    scratch: Scratch,
) -> None:
    """Twin of `conv1d`: write ``scratch.conv_out``, append the raw inputs to ``conv_ring``."""
    live = slot_ids >= 0
    slot = slot_ids[live].long()
    raw = inputs.xbc[live]  # [live, T, conv_dim]
    tokens, width, ring_rows = raw.shape[1], weights.conv_weight.shape[1], cache.conv_ring.shape[1]
    index = torch.arange(1 - width, tokens, device=raw.device)
    ring_row = (cursors.conv_pos[slot, None] + index) % ring_rows  # [live, width - 1 + T]
    history = cache.conv_ring[slot[:, None], ring_row[:, : width - 1]]
    seen = torch.cat([history, raw], dim=1).float()
    taps = weights.conv_weight.float()
    total = torch.zeros(raw.shape, device=raw.device)
    if weights.conv_bias is not None:
        total += weights.conv_bias.float()
    for tap in range(width):
        total += seen[:, tap : tap + tokens] * taps[:, tap]
    scratch.conv_out[~live] = 0
    scratch.conv_out[live] = _silu(total).to(scratch.conv_out.dtype)
    cache.conv_ring[slot[:, None], ring_row[:, width - 1 :]] = raw


def precompute_reference(
    inputs: LayerInputs,
    weights: LayerWeights,
    cache: LayerCache,
    cursors: Cursors,
    slot_ids: Tensor,
    scratch: Scratch,
    *,
    shape: ChainShape,
    window: int,
) -> None:
    """Twin of `precompute`: write what the state update needs; append B and dt."""
    live = slot_ids >= 0
    slot = slot_ids[live].long()
    tokens, ring_rows = inputs.dt.shape[1], cache.dt_ring.shape[2]
    raw = inputs.dt[live].float()
    if weights.dt_bias is not None:
        raw = raw + weights.dt_bias.float()
    dt_new = _softplus(raw).clamp(shape.dt_min, shape.dt_max).transpose(1, 2)  # [live, H, T]

    _, b_new, c_new = _split_conv_out(scratch.conv_out[live], shape)  # [live, T, G, N]
    b_new, c_new = b_new.transpose(1, 2), c_new.transpose(1, 2)
    past, past_row = _past_rows(cursors, slot, window, ring_rows)
    b_past = _ring_rows(cache.b_ring, slot, past_row, past)  # [live, G, W, N]
    dt_past = _ring_rows(cache.dt_ring, slot, past_row, past)  # [live, H, W]

    products = _dot(c_new.float(), torch.cat([b_past, b_new], dim=2).float().transpose(2, 3))
    products = products.repeat_interleave(shape.heads_per_group, dim=1)  # [live, H, T, W + T]
    dt_all = torch.cat([dt_past, dt_new], dim=2)
    cum = _cumulated(dt_all, weights.A)
    between = (cum[..., window:, None] - cum[..., None, :]).float()  # from j to t
    causal = products * between.exp() * dt_all[:, :, None, :]
    keep = torch.ones(tokens, window + tokens, dtype=torch.bool, device=causal.device).tril(window)
    keep = keep & F.pad(past, (0, tokens), value=True)[:, None, None, :]

    made = (scratch.read_c, scratch.causal, scratch.decay, scratch.fold_weight, scratch.fold_decay)
    for tensor in made:
        tensor[~live] = 0
    scratch.causal[live] = _planes(torch.where(keep, causal, 0.0), scratch.causal, window)
    read_c, undo = _into_range(c_new, scratch.read_c.dtype)  # undo: [live, G, T]
    scratch.read_c[live] = read_c
    undo = undo.repeat_interleave(shape.heads_per_group, dim=1)
    scratch.decay[live] = cum[..., window:].float().exp() * undo
    weight, decay = _fold_weights(dt_past, weights.A)
    scratch.fold_weight[live] = F.pad(weight, (0, scratch.fold_weight.shape[-1] - window))
    scratch.fold_decay[live] = decay
    new_row = _new_rows(cursors, slot, tokens, ring_rows)
    _append(cache.b_ring, slot, new_row, b_new)
    _append(cache.dt_ring, slot, new_row, dt_new)


def state_update_reference(
    inputs: LayerInputs,
    weights: LayerWeights,
    cache: LayerCache,
    cursors: Cursors,
    slot_ids: Tensor,
    scratch: Scratch,
    out: Tensor,
    *,
    shape: ChainShape,
    window: int,
    stochastic: bool,
) -> None:
    """Twin of `state_update`: write ``out``, append x, fold and store the state on a flush."""
    live = slot_ids >= 0
    slot = slot_ids[live].long()
    tokens, ring_rows = out.shape[1], cache.x_ring.shape[2]
    conv_out = scratch.conv_out[live]
    x_new, _, _ = _split_conv_out(conv_out, shape)
    x_new = x_new.transpose(1, 2)  # [live, H, T, P]
    past, past_row = _past_rows(cursors, slot, window, ring_rows)
    x_past = _ring_rows(cache.x_ring, slot, past_row, past)  # [live, H, W, P]

    state = cache.state[slot].float()  # [live, H, P, N]
    c_heads = scratch.read_c[live].float().transpose(2, 3)  # [live, G, N, T]
    c_heads = c_heads.repeat_interleave(shape.heads_per_group, dim=1)
    read_out = _dot(state, c_heads)  # [live, H, P, T]
    y = read_out.transpose(2, 3) * scratch.decay[live][..., None]
    causal = _matrix(scratch.causal[live], window, tokens)  # [live, H, T, W + T]
    y = y + _dot(causal, torch.cat([x_past, x_new], dim=2).float())  # [live, H, T, P]
    if weights.D is not None:
        y = y + x_new.float() * weights.D.float()[:, None, None]
    if inputs.z is not None:
        y = y * _silu(inputs.z[live].float()).transpose(1, 2)
    out[~live] = 0
    out[live] = y.transpose(1, 2).to(out.dtype)

    flush = cursors.flushed[slot].bool()
    if flush.any():
        kept = past[flush]
        folded = _fold_history(
            state[flush],
            x_past[flush],
            _ring_rows(cache.b_ring, slot[flush], past_row[flush], kept),
            scratch.fold_weight[live][flush][..., :window],
            scratch.fold_decay[live][flush],
        )
        if stochastic:
            seeds = cursors.rand_seed[slot[flush]]
            words = state_words(seeds, torch.full_like(seeds, cache.layer), *folded.shape[1:])
            cache.state[slot[flush]] = round_stochastic_reference(folded, words, cache.state.dtype)
        else:
            cache.state[slot[flush]] = folded.to(cache.state.dtype)
    _append(cache.x_ring, slot, _new_rows(cursors, slot, tokens, ring_rows), x_new)


# A row must not change with its neighbours. On the CPU, batched products choose kernels by the size
# of the batch, so each row is a product of its own; and silu and softplus compute the last elements
# of a tensor, those that fill no vector, by other code than the rest, which exp and log1p do not.


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b, row by row; a and b: (rows, ...)."""
    product = a.new_empty(*a.shape[:-1], b.shape[-1])
    for row in range(len(a)):
        torch.matmul(a[row], b[row], out=product[row])
    return product


def _planes(causal: Tensor, like: Tensor, window: int) -> Tensor:
    """Return the causal matrix (rows, H, T, W + T) in the planes and columns of the scratch."""
    padded = like.new_zeros(len(causal), *like.shape[1:])
    at = like.shape[-1] - padded_tokens(causal.shape[-2])
    rest = causal
    for plane in range(like.shape[2]):
        past, new = rest[..., :window], rest[..., window:]
        padded[:, :, plane, :, :window] = past.to(like.dtype)
        padded[:, :, plane, :, at : at + new.shape[-1]] = new.to(like.dtype)
        rest = rest - rest.to(like.dtype).float()
    return padded


def _into_range(c: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return C (rows, G, T, N) as ``dtype``, and what a product with it is multiplied by."""
    if c.dtype == dtype:
        return c, c.new_ones(c.shape[:-1], dtype=torch.float32)
    largest = c.float().abs().amax(-1).contiguous()
    exponent = (largest.view(torch.int32) >> 23).clamp(min=15)
    scale = ((268 - exponent) << 23).view(torch.float32)
    undo = ((exponent - 14) << 23).view(torch.float32)
    return (c.float() * scale[..., None]).to(dtype), undo


def _matrix(planes: Tensor, window: int, tokens: int) -> Tensor:
    """Return the causal matrix (rows, H, T, W + T), fp32, of the scratch's planes."""
    whole = planes.float().sum(2)
    at = planes.shape[-1] - padded_tokens(tokens)
    return torch.cat([whole[..., :window], whole[..., at : at + tokens]], dim=-1)


def _silu(value: Tensor) -> Tensor:
    """Return value * sigmoid(value)."""
    return value / (1 + torch.exp(-value))


def _softplus(value: Tensor) -> Tensor:
    """Return log(1 + exp(value)), which is value itself above 20."""
    return torch.where(value > 20, value, torch.log1p(torch.exp(value.clamp(max=20))))


def _split_conv_out(conv_out: Tensor, shape: ChainShape) -> tuple[Tensor, Tensor, Tensor]:
    """Return x (rows, T, H, P), B and C (rows, T, G, N) as views of ``conv_out``."""
    x, b, c = conv_out.split(
        [shape.inner_dim, shape.groups * shape.state_dim, shape.groups * shape.state_dim], dim=-1
    )
    groups = (shape.groups, shape.state_dim)
    return (
        x.unflatten(-1, (shape.heads, shape.head_dim)),
        b.unflatten(-1, groups),
        c.unflatten(-1, groups),
    )


def _past_rows(
    cursors: Cursors, slot: Tensor, window: int, ring_rows: int
) -> tuple[Tensor, Tensor]:
    """Return which of the W history places are held, and their ring rows: both (rows, W)."""
    past = torch.arange(window, device=slot.device)
    return (
        past < cursors.held[slot, None],
        (cursors.ring_start[slot, None] + past) % ring_rows,
    )


def _new_rows(cursors: Cursors, slot: Tensor, tokens: int, ring_rows: int) -> Tensor:
    """Return the ring rows of the launch's own tokens: (rows, T)."""
    token = torch.arange(tokens, device=slot.device)
    return ((cursors.ring_start + cursors.held)[slot, None] + token) % ring_rows


def _ring_rows(ring: Tensor, slot: Tensor, ring_row: Tensor, keep: Tensor) -> Tensor:
    """Return rows of ``ring`` (slots, heads or groups, R, ...), zeros where ``keep`` is false."""
    rows = ring[slot[:, None], :, ring_row].transpose(1, 2)
    keep = keep[:, None, :]
    return torch.where(keep if ring.ndim == 3 else keep[..., None], rows, 0)


def _append(ring: Tensor, slot: Tensor, ring_row: Tensor, new: Tensor) -> None:
    """Write ``new`` (rows, heads or groups, T, ...) at the given rows of ``ring``."""
    ring[slot[:, None], :, ring_row] = new.transpose(1, 2).to(ring.dtype)


def _cumulated(dt: Tensor, a: Tensor) -> Tensor:
    """Return inclusive sums of A·dt (rows, H, tokens), in fp64 because differences are taken."""
    return (dt * a[:, None]).double().cumsum(-1)


def _fold_weights(dt_past: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a fold multiplies history tokens and state by: (rows, H, W) and (rows, H)."""
    cum = _cumulated(dt_past, a)
    total = cum[..., -1:]
    return (total - cum).float().exp() * dt_past, total[..., 0].float().exp()


def _fold_history(
    state: Tensor, x_past: Tensor, b_past: Tensor, weight: Tensor, decay: Tensor
) -> Tensor:
    """Return the fp32 state (rows, H, P, N) after the whole history, with `_fold_weights`."""
    b_heads = b_past.float().repeat_interleave(weight.shape[1] // b_past.shape[1], dim=1)
    weighted = b_heads * weight[..., None]
    return state * decay[..., None, None] + _dot(x_past.float().transpose(2, 3), weighted)
