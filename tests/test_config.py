# SPDX-License-Identifier: Apache-2.0
"""A configuration that breaks a rule is refused when it is made, in a sentence that says which."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from graphrt.config import ChainShape, PdlLinks, RuntimeConfig, resolve_device
from graphrt.errors import ConfigError, GraphrtError
from graphrt.memory import MemoryPlan

SHAPE: dict[str, Any] = {"heads": 8, "head_dim": 64, "state_dim": 128}
RUNTIME: dict[str, Any] = {
    "shape": ChainShape(**SHAPE),
    "layers": 2,
    "slots": 8,
    "tokens": 4,
    "window": 16,
    "buckets": (1, 4),
    "device": "cpu",
}


def shape(**changed: Any) -> ChainShape:
    return ChainShape(**(SHAPE | changed))


def runtime(**changed: Any) -> RuntimeConfig:
    return RuntimeConfig(**(RUNTIME | changed))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"heads": 0}, r"^heads=0: must be ≥ 1; "),
        ({"head_dim": 15}, r"^head_dim=15: must be 16 … 128; "),
        ({"head_dim": 129}, r"^head_dim=129: must be 16 … 128; "),
        ({"state_dim": 15}, r"^state_dim=15: must be 16 … 256; "),
        ({"state_dim": 257}, r"^state_dim=257: must be 16 … 256; "),
        ({"groups": 0}, r"^groups=0: must be 1 … 8; "),
        ({"groups": 9}, r"^groups=9: must be 1 … 8; "),
        ({"groups": 3}, r"^groups=3: must divide heads \(8\).*; use the model's own"),
        ({"conv_width": 1}, r"^conv_width=1: must be 2 … 4; "),
        ({"conv_width": 5}, r"^conv_width=5: must be 2 … 4; "),
        ({"heads": 8.0}, r"^heads=8\.0: must be a whole number; "),
        ({"head_dim": "64"}, r"^head_dim='64': must be a whole number; "),
        ({"groups": True}, r"^groups=True: must be a whole number; "),
        ({"dt_min": -0.1}, r"^dt_min, dt_max=\(-0\.1, inf\): must be 0 ≤ dt_min ≤ dt_max; "),
        ({"dt_min": 0.2, "dt_max": 0.1}, r"^dt_min, dt_max=\(0\.2, 0\.1\): must be 0 ≤"),
        ({"dt_min": math.nan}, r"^dt_min, dt_max=\(nan, inf\): must be 0 ≤"),
        ({"dt_max": math.nan}, r"^dt_min, dt_max=\(0\.0, nan\): must be 0 ≤"),
        ({"dt_max": -math.inf}, r"^dt_min, dt_max=\(0\.0, -inf\): must be 0 ≤"),
    ],
)
def test_a_shape_that_breaks_a_rule_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        shape(**changed)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"heads": 1, "groups": 1},
        {"groups": 8},
        {"head_dim": 16, "state_dim": 16, "conv_width": 2},
        {"head_dim": 128, "state_dim": 256, "conv_width": 3},
        {"head_dim": 80, "state_dim": 48},
        {"dt_min": 0.1, "dt_max": 0.1},
        {"dt_min": 0.0, "dt_max": 0.0},
    ],
)
def test_a_shape_at_the_edge_of_its_rules_is_taken(changed: dict[str, Any]) -> None:
    made = shape(**changed)
    assert made.inner_dim == made.heads * made.head_dim
    assert made.conv_dim == made.inner_dim + 2 * made.groups * made.state_dim
    assert made.heads_per_group * made.groups == made.heads


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"layers": 0}, r"^layers=0: must be ≥ 1; "),
        ({"slots": 0}, r"^slots=0: must be ≥ 1; "),
        ({"tokens": 0}, r"^tokens=0: must be 1 … 16; "),
        ({"tokens": 17, "window": 32}, r"^tokens=17: must be 1 … 16; "),
        ({"tokens": 4.0}, r"^tokens=4\.0: must be a whole number; "),
        ({"window": 3}, r"^window=3: must be tokens \(4\) … 32; raise window or shorten the draft"),
        ({"window": 33}, r"^window=33: must be tokens \(4\) … 32; "),
        ({"buckets": ()}, r"^buckets=\(\): must name at least one"),
        ({"buckets": (0, 4)}, r"^buckets=\(0, 4\): every bucket must be ≥ 1; "),
        ({"buckets": (4, 4)}, r"^buckets=\(4, 4\): must be strictly rising; "),
        ({"buckets": (1, 9)}, r"^buckets=\(1, 9\): the largest bucket must be ≤ slots \(8\)"),
        (
            {"launch_tokens": (1, 2)},
            r"^launch_tokens=\(1, 2\): must be strictly rising from ≥ 1 to",
        ),
        ({"launch_tokens": (0, 4)}, r"^launch_tokens=\(0, 4\): must be strictly rising from ≥ 1"),
        ({"launch_tokens": (2, 2, 4)}, r"^launch_tokens=\(2, 2, 4\): must be strictly rising"),
        ({"launch_tokens": (4, 1)}, r"^launch_tokens=\(4, 1\): must be strictly rising"),
        ({"state_dtype": torch.float64}, r"^state_dtype=torch\.float64: must be one of torch\.fl"),
        ({"activation_dtype": torch.int8}, r"^activation_dtype=torch\.int8: must be one of "),
        ({"rounding": "up"}, r"^rounding=up: must be one of nearest, stochastic; "),
        ({"rounding": "stochastic"}, r"^rounding=stochastic: needs a 16-bit state_dtype.*; set"),
        ({"seed": -1}, r"^seed=-1: must be 0 … 2\*\*63 - 1; "),
        ({"seed": 2**63}, r"^seed=9223372036854775808: must be 0 … "),
        ({"device": "meta"}, r"^device=meta: must be a CUDA device or the CPU; "),
    ],
)
def test_a_configuration_that_breaks_a_rule_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        runtime(**changed)
    assert isinstance(refused.value, GraphrtError) and isinstance(refused.value, ValueError)


@pytest.mark.parametrize(
    "changed",
    [
        {"tokens": 1, "window": 1},
        {"tokens": 16, "window": 16},
        {"tokens": 16, "window": 32},
        {"window": 4},
        {"buckets": (8,)},
        {"buckets": [1, 2, 3]},
        {"launch_tokens": [1, 4]},
        {"seed": 2**63 - 1},
        {"state_dtype": torch.bfloat16, "rounding": "stochastic"},
        {"state_dtype": torch.float16, "rounding": "nearest"},
        {"activation_dtype": torch.float32},
        {"pdl": PdlLinks(precompute=False)},
    ],
)
def test_a_configuration_at_the_edge_of_its_rules_is_taken(changed: dict[str, Any]) -> None:
    config = runtime(**changed)
    assert config.ring_rows == config.window + config.tokens
    assert config.conv_ring_rows == config.shape.conv_width - 1 + config.tokens
    assert isinstance(config.buckets, tuple) and isinstance(config.launch_tokens, tuple)


def test_only_the_largest_t_is_captured_unless_others_are_named() -> None:
    assert runtime().launch_tokens == (4,)
    assert runtime(launch_tokens=(1, 4)).launch_tokens == (1, 4)


@pytest.mark.parametrize("made", [shape(), runtime(), PdlLinks()], ids=lambda m: type(m).__name__)
def test_what_is_configured_is_frozen(made: Any) -> None:
    field = dataclasses.fields(made)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, field, None)


def test_a_configuration_is_compared_and_hashed_by_value() -> None:
    assert runtime() == runtime()
    assert hash(runtime()) == hash(runtime())
    assert runtime() != runtime(seed=1)


def test_the_memory_plan_is_the_configuration_s_own() -> None:
    plan = runtime().memory()
    assert isinstance(plan, MemoryPlan)
    assert plan["state"].shape == (2, 8, 8, 64, 128)


@pytest.mark.parametrize(("has_gpu", "chosen"), [(True, "cuda:0"), (False, "cpu")])
def test_the_default_device_is_the_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert resolve_device(None) == torch.device(chosen)
    assert runtime(device=None).device == torch.device(chosen)


def test_a_cuda_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^device=cuda: this process sees no CUDA device; "):
        resolve_device("cuda")


def test_a_cuda_device_gets_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert resolve_device("cuda") == torch.device("cuda", 3)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
