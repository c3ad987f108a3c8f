# SPDX-License-Identifier: Apache-2.0
"""The whole chain, token by token in float64: what every backend is held to.

It knows nothing of rings, checkpoints or flushes. A request is its true state after the accepted
tokens and the last inputs of its convolution; a launch runs tokens on a copy of both, and a commit
runs the accepted ones again on the originals. For each token, per head:

    conv  = silu(conv_bias + sum_k conv_weight[k] * xbc[t - width + 1 + k])    split into x, B, C
    dt    = clamp(log(1 + exp(dt_raw + dt_bias)), dt_min, dt_max)
    S     = exp(A * dt) * S + dt * x B^T
    y     = (S C + D * x) * silu(z)

Inputs are those the chain is given, already in the activation dtype. By contract the rings keep
x, B and C in that dtype too. 16-bit ones would differ from the oracle's by one unit here and there,
where fp32 and float64 fall on two sides of a tie, so the oracle can be shown what the chain made of
the convolution: it refuses all but its own values rounded once, and continues from those.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from graphrt.config import ChainShape
from graphrt.kernels.tensors import LayerInputs, LayerWeights
from tests.helpers.checks import check_rounded


class Perturbation(Enum):
    """Errors of one token in one request, which a comparison with the oracle must refuse."""

    DECAY_DROPPED = "one token's decay dropped"
    ACCEPTED_OFF_BY_ONE = "one accepted count off by one"
    RING_ROW_STALE = "one ring row stale"


@dataclass
class _Launch:
    """The tokens of the last launch, until they are committed: (rows, T, ...) each."""

    slots: list[int]
    seen: Tensor  # [rows, width - 1 + T, conv_dim], the convolution's history, then the inputs
    x: Tensor  # [rows, T, H, P]
    b: Tensor  # [rows, T, H, N]
    dt: Tensor  # [rows, T, H]
    decay: Tensor  # [rows, T, H]


class ChainOracle:
    """One layer of the chain for any number of requests, each known by its slot.

    ``perturbation``, where given, is made once: in the first commit from the ``perturb_from``-th on
    that has a token to spoil.
    """

    def __init__(
        self,
        shape: ChainShape,
        weights: LayerWeights,
        activation_dtype: torch.dtype,
        perturbation: Perturbation | None = None,
        perturb_from: int = 0,
    ) -> None:
        self.shape = shape
        self.activation_dtype = activation_dtype
        self.taps = _double(weights.conv_weight).T  # [width, conv_dim]
        self.conv_bias = _double_or(weights.conv_bias, shape.conv_dim)
        self.dt_bias = _double_or(weights.dt_bias, shape.heads)
        self.A = _double(weights.A)
        self.D = _double_or(weights.D, shape.heads)
        self.state: dict[int, Tensor] = {}  # [H, P, N]
        self.conv_tail: dict[int, Tensor] = {}  # [width - 1, conv_dim]
        self.last: _Launch | None = None
        self.perturbed = False
        self._perturbation = perturbation
        self._commits_to_spare = perturb_from
        self._older: tuple[Tensor, Tensor] | None = None

    def admit(
        self, slot: int, state: Tensor | None = None, conv_tail: Tensor | None = None
    ) -> None:
        """Start a request with a prefilled ``state`` and ``conv_tail``, or from nothing."""
        shape = self.shape
        dims = (shape.heads, shape.head_dim, shape.state_dim)
        tail = (shape.conv_width - 1, shape.conv_dim)
        self.state[slot] = _double(state) if state is not None else _zeros(dims)
        self.conv_tail[slot] = _double(conv_tail) if conv_tail is not None else _zeros(tail)

    def adopt(self, slot: int, stored: Tensor) -> None:
        """Continue from a checkpoint as it was stored, once its rounding has been checked."""
        self.state[slot] = _double(stored)

    def launch(
        self, slots: list[int], inputs: LayerInputs, conv_out: Tensor | None = None
    ) -> Tensor:
        """Return y (rows, T, H, P) for the tokens of ``inputs``, whose rows are those of ``slots``.

        conv_out: (rows, T, conv_dim), the chain's own convolution, checked; see above.
        """
        shape, xbc = self.shape, _double(inputs.xbc)
        seen = torch.cat([torch.stack([self.conv_tail[slot] for slot in slots]), xbc], dim=1)
        state = torch.stack([self.state[slot] for slot in slots])
        outputs, xs, bs, dts, decays = [], [], [], [], []
        for t in range(xbc.shape[1]):
            terms = seen[:, t : t + shape.conv_width] * self.taps
            conv = terms.sum(1) + self.conv_bias
            conv = conv * torch.sigmoid(conv)
            if conv_out is not None:
                scale = terms.abs().sum(1) + self.conv_bias.abs()
                check_rounded(conv_out[:, t], conv, scale, f"conv_out of token {t}, slots {slots}")
            if self.activation_dtype != torch.float32:
                rounded = conv.to(self.activation_dtype) if conv_out is None else conv_out[:, t]
                conv = _double(rounded)
            x, b, c = self._split(conv)
            raw = _double(inputs.dt[:, t]) + self.dt_bias
            dt = (raw.clamp(min=0) + torch.log1p(torch.exp(-raw.abs()))).clamp(
                shape.dt_min, shape.dt_max
            )
            decay = torch.exp(self.A * dt)
            state = _next_state(state, x, b, dt, decay)
            y = torch.einsum("rhpn,rhn->rhp", state, c) + self.D[:, None] * x
            if inputs.z is not None:
                z = _double(inputs.z[:, t])
                y = y * z * torch.sigmoid(z)
            for made, value in zip(
                (outputs, xs, bs, dts, decays), (y, x, b, dt, decay), strict=True
            ):
                made.append(value)
        self.last = _Launch(slots, seen, *(torch.stack(made, 1) for made in (xs, bs, dts, decays)))
        return torch.stack(outputs, 1)

    def commit(self, counts: list[int]) -> None:
        """Keep the first ``counts[row]`` tokens of each row of the last launch."""
        last = self.last
        assert last is not None
        counts = self._perturb(last, list(counts))
        state = torch.stack([self.state[slot] for slot in last.slots])
        kept = torch.tensor(counts)
        for t in range(max(counts)):
            token = (made[:, t] for made in (last.x, last.b, last.dt, last.decay))
            state = torch.where((kept > t)[:, None, None, None], _next_state(state, *token), state)
        tail = self.shape.conv_width - 1
        for row, (slot, count) in enumerate(zip(last.slots, counts, strict=True)):
            self.state[slot] = state[row]
            self.conv_tail[slot] = last.seen[row, count : count + tail]
        self._older = (last.x[0, 0], last.b[0, 0])
        self.last = None

    def _split(self, conv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return x (rows, H, P), B and C (rows, H, N), every head with its group's."""
        shape = self.shape
        part = shape.groups * shape.state_dim
        x = conv[:, : shape.inner_dim].reshape(-1, shape.heads, shape.head_dim)
        group_of = [head * shape.groups // shape.heads for head in range(shape.heads)]
        b, c = (
            conv[:, start : start + part].reshape(-1, shape.groups, shape.state_dim)[:, group_of]
            for start in (shape.inner_dim, shape.inner_dim + part)
        )
        return x, b, c

    def _perturb(self, last: _Launch, counts: list[int]) -> list[int]:
        self._commits_to_spare -= 1
        candidates = enumerate(zip(last.slots, counts, strict=True))  # with a state to spoil
        row = next((r for r, (slot, n) in candidates if n > 0 and self.state[slot].any()), None)
        if (
            self._perturbation is None
            or self.perturbed
            or self._commits_to_spare >= 0
            or self._older is None
            or row is None
        ):
            return counts
        self.perturbed = True
        token = counts[row] - 1
        if self._perturbation is Perturbation.DECAY_DROPPED:
            last.decay[row, token] = 1.0
        elif self._perturbation is Perturbation.RING_ROW_STALE:
            last.x[row, token], last.b[row, token] = self._older
        else:
            counts[row] -= 1
        return counts


def _next_state(state: Tensor, x: Tensor, b: Tensor, dt: Tensor, decay: Tensor) -> Tensor:
    added = (dt[..., None] * x)[..., :, None] * b[..., None, :]
    return decay[..., None, None] * state + added


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _double_or(tensor: Tensor | None, length: int) -> Tensor:
    return _double(tensor) if tensor is not None else torch.zeros(length, dtype=torch.float64)


def _zeros(dims: tuple[int, ...]) -> Tensor:
    return torch.zeros(dims, dtype=torch.float64)
