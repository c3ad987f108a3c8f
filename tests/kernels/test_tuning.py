# SPDX-License-Identifier: Apache-2.0
"""Every shape and bucket has a launch configuration, and it can be launched."""

import pytest

from graphrt.config import ChainShape
from graphrt.kernels.tuning import lookup

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


def test_look_up_is_pure() -> None:
    shape = SHAPES[0]
    assert [lookup(shape, rows) for rows in (1, 64, 1)] == [
        lookup(shape, rows) for rows in (1, 64, 1)
    ]
