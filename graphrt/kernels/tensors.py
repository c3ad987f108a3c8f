# SPDX-License-Identifier: Apache-2.0
"""The tensors a stage is given, grouped by who owns them.

Symbols: H heads, P head_dim, N state_dim, G groups, T tokens of the launch, W window,
R = W + max T ring rows, ``conv_dim = H*P + 2*G*N``. "act" is the activation dtype.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The weights of one layer that the chain reads. Owned by the model, never written.

    Not even by the step: conv1d reads its weights while the kernel before it may still run.

    conv_weight: (conv_dim, width) act or fp32, the oldest token's tap first. conv_bias: (conv_dim,)
    or None. A: (H,) fp32, negative. dt_bias: (H,) or None. D: (H,) or None, the skip weight.
    """

    conv_weight: Tensor
    A: Tensor
    conv_bias: Tensor | None = None
    dt_bias: Tensor | None = None
    D: Tensor | None = None


@dataclass(frozen=True, slots=True)
class LayerInputs:
    """What the layer's input projection made for this launch. Any strides, never written.

    xbc: (rows, T, conv_dim) act, x then B then C, before the convolution. dt: (rows, T, H) act or
    fp32, before bias and softplus. z: (rows, T, H, P) act or None, the gate applied as
    ``y * silu(z)``; models that gate inside their norm leave it out.
    """

    xbc: Tensor
    dt: Tensor
    z: Tensor | None = None


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's replay cache, by slot. Owned by ReplayCache, written by the chain.

    state: (slots, H, P, N) state dtype, the checkpoint. x_ring: (slots, H, R, P) act. b_ring:
    (slots, G, R, N) act. dt_ring: (slots, H, R) fp32, processed dt. conv_ring:
    (slots, width-1+max T, conv_dim) act, inputs before the convolution. layer: the layer's number,
    which keeps the random draws of layers apart.
    """

    state: Tensor
    x_ring: Tensor
    b_ring: Tensor
    dt_ring: Tensor
    conv_ring: Tensor
    layer: int


@dataclass(frozen=True, slots=True)
class Cursors:
    """Where each slot stands, shared by all layers; every tensor (slots,). Written by advance.

    The truth between launches; within one the stages read `Scratch.row_cursors`.

    held, ring_start, conv_pos, flushed, last_tokens: int32. flushed says that the launch folds the
    slot's history into its checkpoint. rand_seed: int64. accepted: int32, how many of the slot's
    last launch's tokens are kept; written by the host or a kernel of the user's, reset by advance.
    clamped: (slots + 1,) int32 in memory the host can read without a synchronisation: the count
    that advance had to clamp for a slot, NO_CLAMP where there was none; the last entry is 1 when
    any other is set.
    """

    held: Tensor
    ring_start: Tensor
    conv_pos: Tensor
    flushed: Tensor
    last_tokens: Tensor
    rand_seed: Tensor
    accepted: Tensor
    clamped: Tensor


NO_CLAMP = -(2**31)


@dataclass(frozen=True, slots=True)
class Scratch:
    """What the stages hand on within a launch; shared by all layers.

    conv_out: (rows, T, conv_dim) act, conv1d → precompute and state update.

    Precompute → state update. read_c: (rows, G, T, N), C as the state is multiplied by it: act, but
    fp16 where the state is fp16 and the activations bf16, each token's C then times a power of two
    that brings it into range. causal: (rows, H, planes, T, W' + T'), contiguous, the causal matrix
    over history then new tokens; column j < W is history token j, column W' + j the launch's token
    j, the others are 0, with W' and T' the window and the tokens padded to powers of two
    (`graphrt.memory.padded_window`, `padded_tokens`). One fp32 plane; with bf16 activations two
    bf16 planes, the matrix rounded and what that left. decay:
    (rows, H, T) fp32, from the checkpoint to each token, over the power of two in read_c.
    fold_weight: (rows, H, W') fp32, what a fold multiplies each history token by, and fold_decay:
    (rows, H) fp32, the state.

    row_cursors: (rows, 8) int64, contiguous, a line for each of the launch's rows, order and
    columns as in `graphrt.kernels.row_cursors`; advance → every stage of every layer.
    """

    conv_out: Tensor
    read_c: Tensor
    causal: Tensor
    decay: Tensor
    fold_weight: Tensor
    fold_decay: Tensor
    row_cursors: Tensor


SCRATCH = tuple(field.name for field in fields(Scratch))
