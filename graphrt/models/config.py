# SPDX-License-Identifier: Apache-2.0
"""A Mamba-2 model's configuration, under the names of Hugging Face's config.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphrt.config import ChainShape
from graphrt.errors import CheckpointError, ConfigError, sentence

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_heads",
    "head_dim",
    "state_size",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2Config:
    """The fields of config.json that shape the computation; defaults are Hugging Face's.

    eos_token_ids: token ids that end a text, from config.json or generation_config.json. Raises
    ConfigError for a value that a rule forbids.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_heads: int
    head_dim: int
    state_size: int
    n_groups: int = 8
    conv_kernel: int = 4
    expand: int = 2
    layer_norm_epsilon: float = 1e-5
    time_step_limit: tuple[float, float] = (0.0, math.inf)
    use_bias: bool = False
    use_conv_bias: bool = True
    residual_in_fp32: bool = True
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check every rule; those of the layer's shape are ChainShape's."""
        for name in _SIZES:
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ConfigError(
                    sentence(name, repr(size), "must be a whole number ≥ 1", "correct config.json")
                )
        if self.hidden_act not in ("silu", "swish"):
            raise ConfigError(
                sentence(
                    "hidden_act", self.hidden_act, "the chain computes SiLU", "use such a model"
                )
            )
        if self.expand * self.hidden_size != self.num_heads * self.head_dim:
            raise ConfigError(
                sentence(
                    "num_heads * head_dim",
                    self.num_heads * self.head_dim,
                    f"must be expand * hidden_size ({self.expand * self.hidden_size})",
                    "correct config.json",
                )
            )
        _ = self.chain_shape

    @property
    def chain_shape(self) -> ChainShape:
        """The sizes of one layer, as the runtime takes them."""
        return ChainShape(
            heads=self.num_heads,
            head_dim=self.head_dim,
            state_dim=self.state_size,
            groups=self.n_groups,
            conv_width=self.conv_kernel,
            dt_min=self.time_step_limit[0],
            dt_max=self.time_step_limit[1],
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Mamba2Config:
        """Read the contents of a config.json; keys that do not shape the computation are ignored.

        Raises CheckpointError for another model type, an absent size or a malformed value.
        """
        if values.get("model_type") != "mamba2":
            raise CheckpointError(
                sentence(
                    "model_type",
                    values.get("model_type"),
                    "must be mamba2, the one architecture that is implemented",
                    "choose a Mamba-2 model in Hugging Face's layout",
                )
            )
        absent = [name for name in _SIZES if name not in values]
        if absent:
            raise CheckpointError(
                f"config.json lacks {', '.join(absent)}: every size is needed; complete the file"
            )
        given = {
            name: values[name]
            for name in cls.__dataclass_fields__
            if name in values and name != "time_step_limit"
        }
        if values.get("time_step_limit") is not None:
            given["time_step_limit"] = _limits(values["time_step_limit"])
        return cls(**given, eos_token_ids=_token_ids(values.get("eos_token_id")))

    @classmethod
    def from_directory(cls, directory: str | Path) -> Mamba2Config:
        """Read ``directory``/config.json, and the end tokens of generation_config.json if there.

        Raises CheckpointError for a file that is absent or no JSON object, and as `from_dict`.
        """
        directory = Path(directory)
        values = read_json(directory / "config.json")
        generation = directory / "generation_config.json"
        if generation.is_file():
            end = read_json(generation).get("eos_token_id")
            values = values if end is None else {**values, "eos_token_id": end}
        return cls.from_dict(values)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``; raise CheckpointError where there is none."""
    if not path.is_file():
        raise CheckpointError(
            sentence(
                "model file", path, "there is none", "name a directory in Hugging Face's layout"
            )
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            sentence("model file", path, f"is no valid JSON ({error})", "fetch it again")
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(
            sentence("model file", path, "must hold a JSON object", "fetch it again")
        )
    return values


def _limits(value: Any) -> tuple[float, float]:
    try:
        low, high = (_number(limit) for limit in value)
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(
            sentence("time_step_limit", value, "must be two numbers", "correct config.json")
        ) from error
    return low, high


def _number(value: Any) -> float:
    # JSON has no infinity: transformers writes {"__float__": "Infinity"}, older files Infinity.
    return float(value["__float__"] if isinstance(value, dict) else value)


def _token_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)
