# SPDX-License-Identifier: Apache-2.0
"""What a driven chain is made of: one base case, and rows that change one factor each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from graphrt.cache import Prefilled
from graphrt.config import ChainShape, PdlLinks, Rounding, RuntimeConfig
from graphrt.kernels.tensors import LayerInputs, LayerWeights
from tests.helpers.tensors import poisoned

Layout = Literal["contiguous", "in_proj", "transposed", "column"]
DtRange = Literal["usual", "large", "very_negative"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes, dtypes, options and data of a small chain. The defaults are the base case."""

    heads: int = 4
    head_dim: int = 16
    state_dim: int = 16
    groups: int = 2
    conv_width: int = 4
    dt_min: float = 0.0
    dt_max: float = math.inf
    layers: int = 1
    slots: int = 5
    tokens: int = 3
    window: int = 8
    buckets: tuple[int, ...] = (1, 2, 4)
    launch_tokens: tuple[int, ...] = (1, 3)
    activation_dtype: torch.dtype = torch.float32
    state_dtype: torch.dtype = torch.float32
    weight_dtype: torch.dtype | None = None  # of conv_weight, conv_bias, dt_bias, D; None: act
    dt_dtype: torch.dtype | None = None  # of the raw dt; None: act
    rounding: Rounding = "nearest"
    has_D: bool = True
    has_z: bool = True
    has_dt_bias: bool = True
    has_conv_bias: bool = True
    layout: Layout = "contiguous"
    dt_range: DtRange = "usual"
    seed: int = 0

    def shape(self) -> ChainShape:
        return ChainShape(
            heads=self.heads,
            head_dim=self.head_dim,
            state_dim=self.state_dim,
            groups=self.groups,
            conv_width=self.conv_width,
            dt_min=self.dt_min,
            dt_max=self.dt_max,
        )

    def config(self, device: torch.device | str, pdl: PdlLinks | None = None) -> RuntimeConfig:
        return RuntimeConfig(
            shape=self.shape(),
            layers=self.layers,
            slots=self.slots,
            tokens=self.tokens,
            window=self.window,
            buckets=self.buckets,
            launch_tokens=self.launch_tokens,
            state_dtype=self.state_dtype,
            activation_dtype=self.activation_dtype,
            rounding=self.rounding,
            device=torch.device(device),
            pdl=pdl or PdlLinks(),
        )

    def weights(self, generator: torch.Generator) -> LayerWeights:
        """Return one layer's weights on the CPU.

        Decays of a token lie between 0.4 and 0.97 in the usual case: no history token is forgotten
        at once, none stays for ever. D and the biases of B and C are kept away from 0, because an
        output that cancels to nothing has no relative error worth bounding.
        """
        shape, dtype = self.shape(), self.weight_dtype or self.activation_dtype

        def between(low: float, high: float, *dims: int) -> Tensor:
            return low + (high - low) * torch.rand(dims, generator=generator)

        def normal(*dims: int) -> Tensor:
            return torch.randn(dims, generator=generator)

        conv_bias = 0.3 * normal(shape.conv_dim)
        conv_bias[shape.inner_dim :] += 1.5
        return LayerWeights(
            conv_weight=(0.5 * normal(shape.conv_dim, shape.conv_width)).to(dtype),
            A=-between(0.05, 1.0, shape.heads),
            conv_bias=conv_bias.to(dtype) if self.has_conv_bias else None,
            dt_bias=between(-1.0, 0.5, shape.heads).to(dtype) if self.has_dt_bias else None,
            D=between(0.5, 1.5, shape.heads).to(dtype) if self.has_D else None,
        )

    def inputs(self, rows: list[bool], tokens: int, generator: torch.Generator) -> LayerInputs:
        """Return inputs on the CPU in the case's layout; rows that are False hold NaN."""
        shape, dtype = self.shape(), self.activation_dtype
        count = len(rows)

        def fill(view: Tensor, values: Tensor) -> Tensor:
            view.copy_(values)
            view[torch.tensor([not live for live in rows])] = math.nan
            return view

        def normal(*dims: int) -> Tensor:
            return torch.randn(dims, generator=generator)

        xbc, dt, z = self._empty_inputs(count, tokens, dtype)
        raw = normal(count, tokens, shape.heads)
        if self.dt_range == "large":  # both sides of softplus' threshold of 20, and far beyond
            raw = torch.where(raw > 0, 18.0 + 4.0 * raw, raw)
            raw[raw > 24.0] *= 10.0
        elif self.dt_range == "very_negative":
            raw = torch.where(raw > 0, -30.0 - 10.0 * raw, raw)
        return LayerInputs(
            xbc=fill(xbc, normal(count, tokens, shape.conv_dim)),
            dt=fill(dt, raw),
            z=fill(z, normal(count, tokens, shape.heads, shape.head_dim)) if self.has_z else None,
        )

    def _empty_inputs(self, rows: int, tokens: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return xbc, dt and z, unfilled, in the case's layout."""
        shape, dt_dtype = self.shape(), self.dt_dtype or dtype
        inner, conv, heads = shape.inner_dim, shape.conv_dim, shape.heads
        z_dims = (rows, tokens, heads, shape.head_dim)
        if self.layout == "in_proj":  # one projection's columns: z, xbc, dt, and an odd pitch
            whole = poisoned((rows, tokens, inner + conv + heads + 3), dtype)
            z, xbc, dt = whole[..., 1:-2].split([inner, conv, heads], dim=-1)
            return xbc, dt.to(dt_dtype), z.unflatten(-1, z_dims[2:])
        if self.layout == "transposed":  # in each, another dimension lies innermost
            return (
                poisoned((tokens, rows, conv), dtype).permute(1, 0, 2),
                poisoned((heads, rows, tokens), dt_dtype).permute(1, 2, 0),
                poisoned((heads, rows, shape.head_dim, tokens), dtype).permute(1, 3, 0, 2),
            )
        if self.layout == "column":  # every second column is somebody else's
            return (
                poisoned((rows, tokens, 2 * conv), dtype)[..., ::2],
                poisoned((rows, tokens, 2 * heads), dt_dtype)[..., 1::2],
                poisoned((*z_dims[:3], 2 * shape.head_dim), dtype)[..., ::2],
            )
        return (
            poisoned((rows, tokens, conv), dtype),
            poisoned((rows, tokens, heads), dt_dtype),
            poisoned(z_dims, dtype),
        )

    def empty_out(self, rows: int, tokens: int, device: torch.device | str) -> Tensor:
        """Return a poisoned output (rows, T, H, P) on ``device`` in the case's layout."""
        dims = (rows, tokens, self.heads, self.head_dim)
        dtype = self.activation_dtype
        if self.layout == "in_proj":
            wide = poisoned((rows, tokens, self.heads * self.head_dim + 5), dtype, device)
            return wide[..., 3:-2].unflatten(-1, dims[2:])
        if self.layout == "transposed":
            return poisoned((rows, dims[3], dims[1], dims[2]), dtype, device).permute(0, 2, 3, 1)
        if self.layout == "column":
            return poisoned((*dims[:3], 2 * dims[3]), dtype, device)[..., ::2]
        return poisoned(dims, dtype, device)


def random_request(case: Case, generator: torch.Generator) -> Prefilled:
    """Return what a prompt might leave behind, its convolution's tail in the activation dtype."""
    shape = case.shape()
    state = (case.layers, shape.heads, shape.head_dim, shape.state_dim)
    tail = (case.layers, shape.conv_width - 1, shape.conv_dim)
    return Prefilled(
        torch.randn(state, generator=generator),
        torch.randn(tail, generator=generator).to(case.activation_dtype),
    )


BASE = Case()


def one_factor(**factors: dict[str, Any]) -> dict[str, Case]:
    """Return ``{name: BASE with those fields changed}``."""
    return {name: replace(BASE, **fields) for name, fields in factors.items()}
