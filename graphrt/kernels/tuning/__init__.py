# SPDX-License-Identifier: Apache-2.0
"""Launch configurations: data with provenance, looked up by a pure function.

The choice changes how fast a stage is, never what it computes: every configuration splits the
work along rows, heads, channels or P, and no sum is taken in another order.

``<arch>.json`` (``sm_90.json``) holds what ``tools/tune.py`` measured: for each key the choice, the
microseconds, the GPU and the versions. ``default.json`` holds what is used where nothing like it
was measured, on every architecture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import torch

from graphrt.config import ChainShape, Rounding
from graphrt.errors import ConfigError, sentence

Match = Literal["exact", "nearest", "default"]

# A configuration measured at most this many doublings away in rows x heads, tokens and heads
# together is nearer the truth than the default. Beyond the largest measured, a GPU stays full.
_MOST_DOUBLINGS = 2.0
_OTHER_ROUNDING = 0.5
FUSED_WINDOW = 16
"""The widest window at which the fused kernels were measured. A wider one takes one up to 98
registers more, at 32 rows of P 8 programs side by side and not 14: three kernels run."""


@dataclass(frozen=True, slots=True)
class Conv1dLaunch:
    """conv1d: channels a program handles, warps a program has."""

    block_channels: int
    num_warps: int


@dataclass(frozen=True, slots=True)
class PrecomputeLaunch:
    """precompute: heads of one group that a program handles (a power of 2), warps.

    rows_ahead: the launch's first rows whose states it asks for in L2, from sm_90 on.
    """

    block_heads: int
    num_warps: int
    rows_ahead: int = 0


@dataclass(frozen=True, slots=True)
class StateUpdateLaunch:
    """state update: the rows of P of one head that a program handles, and its warps.

    block_head_dim: a power of 2, 16 or more. num_warps: they share a fold's columns of N, if there
    are as many and no more than 8 tokens. in_shared: the state waits for the launch in shared
    memory, not in registers. early_b: what a fold multiplies by is loaded with all the rest, not
    when its time comes. max_registers: a thread may use.
    """

    block_head_dim: int
    num_warps: int = 1
    in_shared: bool = False
    early_b: bool = False
    max_registers: int | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError where a product lacks rows, or warps the memory that they share."""
        if self.block_head_dim < 16:
            rule = "a product has 16 rows"
            raise ConfigError(sentence("block_head_dim", self.block_head_dim, rule, "use 16"))
        if self.num_warps > 1 and not self.in_shared:
            rule = "several warps share a state in shared memory"
            raise ConfigError(sentence("num_warps", self.num_warps, rule, "set in_shared"))


@dataclass(frozen=True, slots=True)
class FusedLaunch:
    """fused, and single: the rows of P of one head that a program handles, and its warps.

    block_head_dim: a power of 2. num_warps: they share the rows, 8 or more each, and what single
    convolves. in_shared: the state waits in shared memory, not in registers.
    """

    block_head_dim: int
    num_warps: int = 1
    in_shared: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError where a warp lacks rows."""
        rule = "a warp has 8 rows"
        if self.block_head_dim < 8:
            raise ConfigError(sentence("block_head_dim", self.block_head_dim, rule, "use 8"))
        if self.block_head_dim < 8 * self.num_warps:
            raise ConfigError(sentence("num_warps", self.num_warps, rule, "use fewer"))


@dataclass(frozen=True, slots=True)
class ChainLaunch:
    """The launch configuration of all stages, and how the table matched.

    fused: where it is not None, one kernel does what precompute and state update do. single: where
    it is not None, one kernel does that and what conv1d does.
    """

    conv1d: Conv1dLaunch
    precompute: PrecomputeLaunch
    state_update: StateUpdateLaunch
    match: Match
    fused: FusedLaunch | None = None
    single: FusedLaunch | None = None

    @classmethod
    def from_choice(cls, choice: dict[str, Any], match: Match) -> ChainLaunch:
        """Return what a table's ``choice`` says."""
        return cls(
            Conv1dLaunch(**choice["conv1d"]),
            PrecomputeLaunch(**choice["precompute"]),
            StateUpdateLaunch(**choice["state_update"]),
            match,
            *(
                FusedLaunch(**choice[stage]) if choice.get(stage) else None
                for stage in ("fused", "single")
            ),
        )

    def choice(self) -> dict[str, Any]:
        """Return the configuration as a table has it."""
        choice = asdict(self)
        del choice["match"]
        return choice


@dataclass(frozen=True, slots=True)
class Key:
    """What a measured choice is filed under, within one architecture. Dtypes as torch names them.

    row_heads: rows times heads, the programs there are to share out. rounding: of the stored state;
    drawing and rounding stochastically takes registers that rounding to nearest leaves.
    """

    heads: int
    head_dim: int
    state_dim: int
    tokens: int
    state_dtype: str
    activation_dtype: str
    row_heads: int
    rounding: Rounding = "nearest"

    @classmethod
    def of(
        cls,
        shape: ChainShape,
        rows: int,
        *,
        tokens: int,
        state_dtype: torch.dtype,
        activation_dtype: torch.dtype,
        rounding: Rounding,
    ) -> Key:
        """Return the key of a launch of ``rows``. An fp32 state is never rounded."""
        return cls(
            shape.heads,
            shape.head_dim,
            shape.state_dim,
            tokens,
            dtype_name(state_dtype),
            dtype_name(activation_dtype),
            rows * shape.heads,
            "nearest" if state_dtype == torch.float32 else rounding,
        )

    def distance(self, other: Key, most_row_heads: int) -> float:
        """Return the doublings between two keys; infinite where they are not comparable.

        Row-heads above ``most_row_heads``, the largest measured, count as that many, the other
        rounding as half a doubling.
        """
        same = ("head_dim", "state_dim", "state_dtype", "activation_dtype")
        if any(getattr(self, name) != getattr(other, name) for name in same):
            return math.inf
        return (
            _doublings(min(self.row_heads, most_row_heads), min(other.row_heads, most_row_heads))
            + _doublings(self.tokens, other.tokens)
            + _doublings(self.heads, other.heads)
            + (_OTHER_ROUNDING if self.rounding != other.rounding else 0.0)
        )


def lookup(
    shape: ChainShape,
    rows: int,
    *,
    tokens: int = 1,
    state_dtype: torch.dtype = torch.float32,
    activation_dtype: torch.dtype = torch.bfloat16,
    rounding: Rounding = "nearest",
    window: int = FUSED_WINDOW,
    arch: str | None = None,
) -> ChainLaunch:
    """Return the launch configuration for ``rows`` rows of ``shape``; there always is one.

    window: above `FUSED_WINDOW` nothing is fused. arch: as `architecture` returns it. Reads the
    tables in the package and nothing else.
    """
    key = Key.of(
        shape,
        rows,
        tokens=tokens,
        state_dtype=state_dtype,
        activation_dtype=activation_dtype,
        rounding=rounding,
    )
    return find(key, arch, window)


def find(key: Key, arch: str | None, window: int) -> ChainLaunch:
    """Return the launch configuration for ``key``, as `lookup` does."""
    found = choose(key, measured(arch) if arch else (), defaults())
    return found if window <= FUSED_WINDOW else replace(found, fused=None, single=None)


def choose(
    key: Key,
    entries: Sequence[tuple[Key, ChainLaunch]],
    fallback: Sequence[tuple[float, ChainLaunch]],
) -> ChainLaunch:
    """Return the nearest of ``entries``, else the first of ``fallback`` with room for the rows.

    fallback: (most row-heads, configuration), rising, the last infinite. Of entries equally near,
    the one with fewer row-heads, then tokens.
    """
    most = max((entry.row_heads for entry, _ in entries), default=0)
    near = min(
        (
            (key.distance(entry, most), entry.row_heads, entry.tokens, i)
            for i, (entry, _) in enumerate(entries)
        ),
        default=None,
    )
    if near is not None and near[0] <= _MOST_DOUBLINGS:
        entry, launch = entries[near[3]]
        match: Match = "exact" if entry == key else "nearest"
        return replace(launch, match=match)
    return next(launch for most_rows, launch in fallback if key.row_heads <= most_rows)


@cache
def defaults() -> tuple[tuple[float, ChainLaunch], ...]:
    """Return what is used where nothing was measured: (most row-heads, configuration)."""
    table = json.loads((files(__name__) / "default.json").read_text(encoding="utf-8"))
    return tuple(
        (entry["most_row_heads"] or math.inf, ChainLaunch.from_choice(entry["choice"], "default"))
        for entry in table["defaults"]
    )


@cache
def measured(arch: str) -> tuple[tuple[Key, ChainLaunch], ...]:
    """Return what was measured on ``arch``, nothing where it has no table."""
    path = files(__name__) / f"{arch}.json"
    if not path.is_file():
        return ()
    table = json.loads(path.read_text(encoding="utf-8"))
    return tuple(
        (Key(**entry["key"]), ChainLaunch.from_choice(entry["choice"], "exact"))
        for entry in table["entries"]
    )


def architecture(device: torch.device) -> str | None:
    """Return the architecture of a CUDA device as tables are named, ``sm_90``; None for others."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name without its module: ``float16``."""
    return str(dtype).removeprefix("torch.")


def _doublings(a: int, b: int) -> float:
    return abs(math.log2(a / b))
