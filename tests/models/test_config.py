# SPDX-License-Identifier: Apache-2.0
"""config.json as transformers writes it, and the files that are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from graphrt import ChainShape
from graphrt.errors import CheckpointError, ConfigError
from graphrt.models.config import Mamba2Config
from tests.models.hugging_face import SMALL, make_model, save_model

VALUES: dict[str, Any] = {"model_type": "mamba2"} | SMALL


def test_reads_what_transformers_writes(tmp_path: Path) -> None:
    fields = {
        "n_groups": 2,
        "conv_kernel": 3,
        "layer_norm_epsilon": 1e-6,
        "time_step_limit": (0.001, 0.1),
        "use_bias": True,
        "use_conv_bias": False,
        "residual_in_fp32": False,
        "tie_word_embeddings": True,
        "eos_token_id": [3, 4],
    }
    save_model(make_model(**fields), tmp_path)
    sizes = {name: SMALL[name] for name in SMALL if name in Mamba2Config.__dataclass_fields__}
    expected = sizes | fields
    expected["eos_token_ids"] = tuple(expected.pop("eos_token_id"))
    assert Mamba2Config.from_directory(tmp_path) == Mamba2Config(**expected)


def test_defaults_are_those_of_transformers(tmp_path: Path) -> None:
    theirs = make_model(n_groups=1).config
    ours = Mamba2Config.from_dict({"model_type": "mamba2"} | SMALL)
    for name in Mamba2Config.__dataclass_fields__.keys() - {"eos_token_ids", "n_groups"}:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert Mamba2Config.__dataclass_fields__["n_groups"].default == type(theirs).n_groups


@pytest.mark.parametrize("infinity", [math.inf, {"__float__": "Infinity"}])
def test_infinite_limits_in_every_spelling(tmp_path: Path, infinity: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps(VALUES | {"time_step_limit": [0.0, infinity]}))
    assert Mamba2Config.from_directory(tmp_path).time_step_limit == (0.0, math.inf)


def test_chain_shape() -> None:
    config = Mamba2Config.from_dict(VALUES | {"time_step_limit": [0.1, 0.2], "n_groups": 2})
    assert config.chain_shape == ChainShape(
        heads=4, head_dim=16, state_dim=16, groups=2, conv_width=4, dt_min=0.1, dt_max=0.2
    )


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [(None, None, ()), (5, None, (5,)), (5, [6, 7], (6, 7)), ([0, 1], None, (0, 1))],
)
def test_end_tokens(
    tmp_path: Path, config: object, generation: object, expected: tuple[int, ...]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(VALUES | {"eos_token_id": config}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    assert Mamba2Config.from_directory(tmp_path).eos_token_ids == expected


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model_type": "mamba"}, CheckpointError, "model_type=mamba"),
        ({"time_step_limit": [0.1]}, CheckpointError, "time_step_limit"),
        ({"time_step_limit": "wide"}, CheckpointError, "time_step_limit"),
        ({"time_step_limit": [0.2, 0.1]}, ConfigError, "dt_min"),
        ({"hidden_size": 33}, ConfigError, "num_heads"),
        ({"num_hidden_layers": 0}, ConfigError, "num_hidden_layers=0"),
        ({"vocab_size": "61"}, ConfigError, "vocab_size='61'"),
        ({"hidden_act": "gelu"}, ConfigError, "hidden_act=gelu"),
        ({"n_groups": 3}, ConfigError, "groups=3"),
        ({"conv_kernel": 5}, ConfigError, "conv_width=5"),
    ],
)
def test_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Mamba2Config.from_dict(VALUES | change)


def test_names_every_absent_size() -> None:
    values = {
        name: value for name, value in VALUES.items() if name not in ("head_dim", "num_heads")
    }
    with pytest.raises(CheckpointError, match="num_heads, head_dim"):
        Mamba2Config.from_dict(values)


@pytest.mark.parametrize("content", ["{", "[]", None])
def test_refuses_a_file_that_is_no_object(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Mamba2Config.from_directory(tmp_path)
