# SPDX-License-Identifier: Apache-2.0
"""Every shape and bucket has a launch configuration that can be launched, and says its match."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphrt.config import ChainShape
from graphrt.errors import ConfigError
from graphrt.kernels import tuning
from graphrt.kernels.tuning import (
    ChainLaunch,
    Conv1dLaunch,
    FusedLaunch,
    Key,
    PrecomputeLaunch,
    StateUpdateLaunch,
    choose,
    defaults,
    lookup,
)

SHAPES = [
    ChainShape(heads=heads, head_dim=head_dim, state_dim=128)
    for heads in (1, 2, 16, 128)
    for head_dim in (16, 64, 80, 128)
]


def is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"H{s.heads}P{s.head_dim}")
def test_every_bucket_finds_a_configuration_that_triton_takes(shape: ChainShape) -> None:
    for rows in (1, 2, 3, 4, 8, 16, 17, 64, 100, 1024, 4096):
        launch = lookup(shape, rows)
        assert launch.match in ("exact", "nearest", "default")
        assert is_power_of_two(launch.conv1d.block_channels)
        assert is_power_of_two(launch.state_update.block_head_dim)
        assert launch.state_update.block_head_dim >= 16
        assert is_power_of_two(launch.precompute.block_heads)
        for stage in (launch.conv1d, launch.precompute, launch.state_update):
            assert stage.num_warps in (1, 2, 4, 8, 16)


@pytest.mark.parametrize(
    ("kind", "rows", "least"),
    [
        (StateUpdateLaunch, 8, 16),
        (FusedLaunch, 4, 8),
    ],
)
def test_fewer_rows_than_a_warp_needs_are_refused(
    kind: Callable[[int], object], rows: int, least: int
) -> None:
    assert kind(least)
    with pytest.raises(ConfigError, match=rf"block_head_dim={rows}: .*; use {least}"):
        kind(rows)


def test_warps_without_a_state_to_share_are_refused() -> None:
    assert StateUpdateLaunch(16, 4, in_shared=True).num_warps == 4
    with pytest.raises(ConfigError, match=r"num_warps=4: .*; .*set in_shared"):
        StateUpdateLaunch(64, 4)


@pytest.mark.parametrize("in_shared", [False, True])
def test_warps_that_share_rows_have_8_each(in_shared: bool) -> None:
    for rows, warps in ((64, 4), (32, 4), (8, 1)):
        assert FusedLaunch(rows, warps, in_shared).num_warps == warps
    with pytest.raises(ConfigError, match=r"num_warps=4: a warp has 8 rows; use fewer"):
        FusedLaunch(16, 4, in_shared)


def test_look_up_is_pure() -> None:
    shape = SHAPES[0]
    assert [lookup(shape, rows) for rows in (1, 64, 1)] == [
        lookup(shape, rows) for rows in (1, 64, 1)
    ]


# --- tables --------------------------------------------------------------------------------------

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120", "sm_103", "sm_999", None)
KEY = Key(16, 64, 128, 6, "float16", "bfloat16", 16)


def launch(number: int) -> ChainLaunch:
    return ChainLaunch(
        Conv1dLaunch(64, 1), PrecomputeLaunch(number, 4), StateUpdateLaunch(16), "exact"
    )


def at(row_heads: int, **changed: object) -> Key:
    return replace(KEY, row_heads=row_heads, **changed)


MEASURED = [(at(16), launch(1)), (at(256), launch(2)), (at(4096), launch(4))]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_look_up_never_falls_off_the_end(arch: str | None, dtype: torch.dtype) -> None:
    for rows in (1, 7, 4096, 10**9):
        for tokens in (1, 6, 16):
            found = lookup(SHAPES[0], rows, tokens=tokens, state_dtype=dtype, arch=arch)
            assert found.match == "default"  # nobody measures one head of 16


FEW = StateUpdateLaunch(16, early_b=True)
SOME = StateUpdateLaunch(16, in_shared=True)
MANY = StateUpdateLaunch(32, in_shared=True)


@pytest.mark.parametrize(
    ("row_heads", "state_update"),
    [
        (1, FEW),
        (64, FEW),
        (65, SOME),
        (512, SOME),
        (513, MANY),
        (10**9, MANY),
    ],
)
def test_the_defaults_by_row_heads(row_heads: int, state_update: StateUpdateLaunch) -> None:
    assert choose(at(row_heads), (), defaults()).state_update == state_update


@pytest.mark.parametrize(
    ("key", "heads", "match"),
    [
        (at(16), 1, "exact"),
        (at(32), 1, "nearest"),
        (at(63), 1, "nearest"),
        (at(64), 1, "nearest"),  # as far from both: fewer row-heads
        (at(65), 2, "nearest"),
        (at(256), 2, "exact"),
        (at(4096), 4, "exact"),
        (at(10**6), 4, "nearest"),  # a full GPU stays full
        (at(4), 1, "nearest"),
        (at(3), None, "default"),  # more than two doublings away
        (at(16, tokens=8), 1, "nearest"),
        (at(16, tokens=1), None, "default"),
        (at(16, heads=32), 1, "nearest"),
        (at(16, heads=128), None, "default"),
        (at(16, head_dim=32), None, "default"),
        (at(16, state_dim=64), None, "default"),
        (at(16, state_dtype="float32"), None, "default"),
        (at(16, activation_dtype="float16"), None, "default"),
        (at(16, rounding="stochastic"), 1, "nearest"),
        (at(63, rounding="stochastic"), None, "default"),  # two doublings and another rounding
    ],
)
def test_exact_nearest_default(key: Key, heads: int | None, match: str) -> None:
    found = choose(key, MEASURED, defaults())
    assert found.match == match
    if heads is None:
        assert found == choose(key, (), defaults())
    else:
        assert found.precompute.block_heads == heads
    assert found == choose(key, MEASURED[::-1], defaults())  # the order of entries says nothing


def test_an_architecture_reads_its_own_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {
        "key": {
            "heads": 16,
            "head_dim": 64,
            "state_dim": 128,
            "tokens": 6,
            "state_dtype": "float16",
            "activation_dtype": "bfloat16",
            "row_heads": 64,
        },
        "choice": {
            "conv1d": {"block_channels": 256, "num_warps": 8},
            "precompute": {"block_heads": 2, "num_warps": 2, "rows_ahead": 32},
            "state_update": {
                "block_head_dim": 32,
                "num_warps": 2,
                "in_shared": True,
                "early_b": False,
                "max_registers": 96,
            },
            "fused": {
                "block_head_dim": 32,
                "num_warps": 4,
                "in_shared": True,
            },
            "single": {
                "block_head_dim": 64,
                "num_warps": 4,
                "in_shared": False,
            },
        },
    }
    (tmp_path / "sm_90.json").write_text(json.dumps({"arch": "sm_90", "entries": [entry]}))
    (tmp_path / "default.json").write_text(
        (Path(tuning.__file__).parent / "default.json").read_text(encoding="utf-8")
    )
    monkeypatch.setattr(tuning, "files", lambda name: tmp_path)
    tuning.measured.cache_clear()
    shape = ChainShape(heads=16, head_dim=64, state_dim=128)
    what = {"tokens": 6, "state_dtype": torch.float16, "activation_dtype": torch.bfloat16}
    tuned = lookup(shape, 4, arch="sm_90", **what)
    wide = lookup(shape, 4, arch="sm_90", window=17, **what)
    other = lookup(shape, 4, arch="sm_80", **what)
    tuning.measured.cache_clear()
    assert (tuned.match, tuned.choice()) == ("exact", entry["choice"])
    assert wide == replace(tuned, fused=None, single=None)  # not measured there
    assert (other.match, other.state_update) == ("default", FEW)


def test_the_same_rounding_is_nearer_but_a_doubling_is_farther() -> None:
    stochastic = [(at(16, rounding="stochastic"), launch(8)), (at(1024), launch(16))]
    found = {
        (row_heads, rounding): choose(
            at(row_heads, rounding=rounding), [*MEASURED, *stochastic], defaults()
        ).precompute.block_heads
        for row_heads in (16, 32, 256)
        for rounding in ("nearest", "stochastic")
    }
    assert found == {
        (16, "nearest"): 1,
        (16, "stochastic"): 8,
        (32, "nearest"): 1,
        (32, "stochastic"): 8,
        (256, "nearest"): 2,
        (256, "stochastic"): 2,
    }


def test_an_fp32_state_has_one_key_whatever_the_rounding() -> None:
    what = {"tokens": 6, "activation_dtype": torch.bfloat16}
    for dtype, same in ((torch.float32, True), (torch.float16, False)):
        keys = {
            Key.of(SHAPES[0], 4, state_dtype=dtype, rounding=rounding, **what)
            for rounding in ("nearest", "stochastic")
        }
        assert (len(keys) == 1) is same


def test_shipped_tables_have_provenance_and_one_entry_a_key() -> None:
    for path in Path(tuning.__file__).parent.glob("sm_*.json"):
        table = json.loads(path.read_text(encoding="utf-8"))
        assert table["arch"] == path.stem
        keys = [Key(**entry["key"]) for entry in table["entries"]]
        assert len(set(keys)) == len(keys)
        for entry in table["entries"]:
            ChainLaunch.from_choice(entry["choice"], "exact")
            assert entry["measured_us"]["pair"] > 0
            assert entry["gpu"] and entry["versions"]["triton"] and entry["date"]
