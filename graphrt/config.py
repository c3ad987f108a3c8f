# SPDX-License-Identifier: Apache-2.0
"""What a runtime is built for: frozen, and refused at construction when a rule is broken."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch

from graphrt.buckets import check_buckets
from graphrt.errors import ConfigError, sentence

if TYPE_CHECKING:
    from graphrt.memory import MemoryPlan

Rounding = Literal["nearest", "stochastic"]

MAX_TOKENS = 16
MAX_WINDOW = 32
STATE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ACTIVATION_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainShape:
    """The sizes of one Mamba-2 layer, per rank.

    heads (H), head_dim (P, 16 … 128), state_dim (N, 16 … 256), groups (G, divides H), conv_width
    (2 … 4), and the limits dt is clamped to after softplus.
    """

    heads: int
    head_dim: int
    state_dim: int
    groups: int = 1
    conv_width: int = 4
    dt_min: float = 0.0
    dt_max: float = math.inf

    def __post_init__(self) -> None:
        """Check every rule."""
        _require_range("heads", self.heads, 1, None)
        _require_range("head_dim", self.head_dim, 16, 128)
        _require_range("state_dim", self.state_dim, 16, 256)
        _require_range("groups", self.groups, 1, self.heads)
        _require_range("conv_width", self.conv_width, 2, 4)
        if self.heads % self.groups:
            raise ConfigError(
                sentence(
                    "groups",
                    self.groups,
                    f"must divide heads ({self.heads}), every head reads one group's B and C",
                    "use the model's own n_groups, per rank",
                )
            )
        if math.isnan(self.dt_min + self.dt_max) or not 0.0 <= self.dt_min <= self.dt_max:
            raise ConfigError(
                sentence(
                    "dt_min, dt_max",
                    (self.dt_min, self.dt_max),
                    "must be 0 ≤ dt_min ≤ dt_max",
                    "use the model's time_step_limit, (0, inf) for none",
                )
            )

    @property
    def inner_dim(self) -> int:
        """H * P, the width of x, z and y."""
        return self.heads * self.head_dim

    @property
    def conv_dim(self) -> int:
        """H * P + 2 * G * N, the width of conv1d's input: x, then B, then C."""
        return self.inner_dim + 2 * self.groups * self.state_dim

    @property
    def heads_per_group(self) -> int:
        """H / G, the heads that share one B and C."""
        return self.heads // self.groups


@dataclass(frozen=True, slots=True, kw_only=True)
class PdlLinks:
    """Which links of the chain use programmatic dependent launch, where the GPU has it (sm_90+).

    ``conv1d`` is the link into it, or into the single kernel of a layer, from whatever kernel comes
    before. Behind advance or a layer of the chain, which signal, it hides the launch. Behind
    kernels of the step's own that do not, such as an input projection, a layer that is a single
    kernel is faster without it, and goes without where the step says that it has any
    (`graphrt.declared.Declares`).
    ``precompute`` is the link conv1d → precompute, or the fused kernel that runs instead of it,
    ``state_update`` precompute → state update.
    """

    conv1d: bool = True
    precompute: bool = True
    state_update: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """Everything that is fixed when a runtime is built.

    shape: sizes of one layer. layers: Mamba-2 layers. slots: requests that can be held at once.
    tokens (T, 1 … 16): most tokens of a launch, 1 confirmed + drafts. window (W, T … 32): most
    history tokens a slot may hold before a launch. buckets: batch sizes to capture, strictly
    rising, the largest ≤ slots. launch_tokens: every T to capture, strictly rising, ending in
    ``tokens``; default only ``tokens``. state_dtype: fp32, bf16 or fp16. activation_dtype: bf16,
    fp16 or fp32, the dtype of inputs, rings and outputs. rounding: of 16-bit state stores. seed:
    the user seed every slot's ``rand_seed`` is derived from. device: default the current CUDA
    device where there is one, else the CPU. pdl: links to use.

    Raises ConfigError for the first rule broken.
    """

    shape: ChainShape
    layers: int
    slots: int
    tokens: int
    window: int
    buckets: tuple[int, ...]
    launch_tokens: tuple[int, ...] = ()
    state_dtype: torch.dtype = torch.float32
    activation_dtype: torch.dtype = torch.bfloat16
    rounding: Rounding = "nearest"
    seed: int = 0
    device: torch.device = None  # type: ignore[assignment]  # resolved in __post_init__
    pdl: PdlLinks = field(default_factory=PdlLinks)

    def __post_init__(self) -> None:
        """Normalise sequences and the device, then check every rule."""
        _set(self, "buckets", tuple(self.buckets))
        _set(self, "launch_tokens", tuple(self.launch_tokens) or (self.tokens,))
        _set(self, "device", resolve_device(self.device))
        _require_range("layers", self.layers, 1, None)
        _require_range("slots", self.slots, 1, None)
        _require_range("tokens", self.tokens, 1, MAX_TOKENS)
        if not self.tokens <= self.window <= MAX_WINDOW:
            raise ConfigError(
                sentence(
                    "window",
                    self.window,
                    f"must be tokens ({self.tokens}) … {MAX_WINDOW}",
                    "raise window or shorten the draft",
                )
            )
        check_buckets(self.buckets, self.slots)
        self._check_launch_tokens()
        _require_choice("state_dtype", self.state_dtype, STATE_DTYPES)
        _require_choice("activation_dtype", self.activation_dtype, ACTIVATION_DTYPES)
        _require_choice("rounding", self.rounding, ("nearest", "stochastic"))
        if self.rounding == "stochastic" and self.state_dtype == torch.float32:
            raise ConfigError(
                sentence(
                    "rounding",
                    "stochastic",
                    "needs a 16-bit state_dtype, an fp32 state is stored as computed",
                    "set state_dtype to bf16 or fp16, or rounding to nearest",
                )
            )
        if not 0 <= self.seed < 2**63:
            raise ConfigError(
                sentence("seed", self.seed, "must be 0 … 2**63 - 1", "take it modulo 2**63")
            )

    def _check_launch_tokens(self) -> None:
        counts = self.launch_tokens
        rising = all(a < b for a, b in pairwise(counts))
        if not rising or counts[0] < 1 or counts[-1] != self.tokens:
            raise ConfigError(
                sentence(
                    "launch_tokens",
                    counts,
                    f"must be strictly rising from ≥ 1 to tokens ({self.tokens})",
                    "list every T to capture, the largest being tokens",
                )
            )

    @property
    def ring_rows(self) -> int:
        """R = W + T, rows of x_ring, b_ring and dt_ring."""
        return self.window + self.tokens

    @property
    def conv_ring_rows(self) -> int:
        """Rows of conv_ring: the convolution's history and one launch, width - 1 + T."""
        return self.shape.conv_width - 1 + self.tokens

    def memory(self) -> MemoryPlan:
        """Return the plan of every tensor the runtime owns; printing it shows bytes by tensor."""
        from graphrt.memory import plan_memory

        return plan_memory(self)


def resolve_device(device: torch.device | str | None) -> torch.device:
    """Return ``device`` with its index, or the default: the current CUDA device, else the CPU."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
    except RuntimeError:  # PyTorch's message lists every backend it was ever built for
        known = False
    else:
        known = device.type in ("cuda", "cpu")
    if not known or isinstance(device, str):
        raise ConfigError(
            sentence("device", device, "must be a CUDA device or the CPU", "pass 'cuda' or 'cpu'")
        )
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                sentence(
                    "device",
                    device,
                    "this process sees no CUDA device",
                    "leave device out to run on the CPU, or see `graphrt info`",
                )
            )
        if device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
    return device


def _set(config: object, name: str, value: object) -> None:
    object.__setattr__(config, name, value)


def _require_range(what: str, got: int, low: int, high: int | None) -> None:
    if not isinstance(got, int) or isinstance(got, bool):
        raise ConfigError(sentence(what, repr(got), "must be a whole number", "pass an int"))
    if got < low or (high is not None and got > high):
        rule = f"must be ≥ {low}" if high is None else f"must be {low} … {high}"
        raise ConfigError(sentence(what, got, rule, f"choose {what} in that range"))


def _require_choice(what: str, got: object, choices: tuple[object, ...]) -> None:
    if got not in choices:
        names = ", ".join(str(choice) for choice in choices)
        raise ConfigError(sentence(what, got, f"must be one of {names}", "choose one of them"))
