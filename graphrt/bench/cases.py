# SPDX-License-Identifier: Apache-2.0
"""What is measured: one case is one cell of a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from graphrt.bench.histories import befores
from graphrt.config import ChainShape, PdlLinks, Rounding, RuntimeConfig
from graphrt.kernels.tuning import Key

SHAPES = {
    # One rank of eight of Nemotron-3-Super, and the whole model.
    "rank": ChainShape(heads=16, head_dim=64, state_dim=128, groups=1),
    "whole": ChainShape(heads=128, head_dim=64, state_dim=128, groups=8),
    # To try the benchmark out.
    "tiny": ChainShape(heads=2, head_dim=16, state_dim=16, groups=1),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measurement's sizes. history: see `histories.accepted_shares`.

    Raises ConfigError for a history that T and W do not have; `config` raises it for sizes.
    """

    shape: ChainShape
    batch: int
    tokens: int = 6
    window: int = 16
    state_dtype: torch.dtype = torch.float16
    activation_dtype: torch.dtype = torch.bfloat16
    rounding: Rounding = "nearest"
    pdl: bool = True
    history: str = "histogram"

    def __post_init__(self) -> None:
        """Build the configuration of a single slot, and the history, for their checks."""
        self.config(self.batch, torch.device("cpu"))
        befores(self.history, self.tokens, self.window)

    @property
    def links(self) -> PdlLinks:
        """All links, or none."""
        return PdlLinks(conv1d=self.pdl, precompute=self.pdl, state_update=self.pdl)

    def config(self, slots: int, device: torch.device) -> RuntimeConfig:
        """Return the configuration of one layer with ``slots`` slots and one bucket."""
        return RuntimeConfig(
            shape=self.shape,
            layers=1,
            slots=slots,
            tokens=self.tokens,
            window=self.window,
            buckets=(self.batch,),
            state_dtype=self.state_dtype,
            activation_dtype=self.activation_dtype,
            rounding=self.rounding,
            device=device,
            pdl=self.links,
        )

    def key(self) -> Key:
        """Return what the case's launch configuration is filed under."""
        return Key.of(
            self.shape,
            self.batch,
            tokens=self.tokens,
            state_dtype=self.state_dtype,
            activation_dtype=self.activation_dtype,
            rounding=self.rounding,
        )

    def at(self, batch: int) -> Case:
        """Return the case at another batch."""
        return replace(self, batch=batch)

    def describe(self) -> dict[str, Any]:
        """Return the case as JSON has it."""
        shape = self.shape
        return {
            "heads": shape.heads,
            "head_dim": shape.head_dim,
            "state_dim": shape.state_dim,
            "groups": shape.groups,
            "conv_width": shape.conv_width,
            "batch": self.batch,
            "tokens": self.tokens,
            "window": self.window,
            "state_dtype": _NAMES[self.state_dtype],
            "activation_dtype": _NAMES[self.activation_dtype],
            "rounding": self.rounding,
            "pdl": self.pdl,
            "history": self.history,
        }
