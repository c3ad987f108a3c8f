# SPDX-License-Identifier: Apache-2.0
"""The kernels of both chains compiled for a GPU that is not there, and what is read from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from graphrt.config import PdlLinks
from graphrt.kernels.assembly import (
    Instruction,
    ptx_instructions,
    resource_usage,
    sass_instructions,
)
from graphrt.kernels.links import Last, stages_of
from graphrt.kernels.tuning import FusedLaunch
from tests.helpers.aot import recorded_launches
from tests.helpers.assembly import Access, accesses
from tests.helpers.cases import Case
from tests.helpers.links import ALL
from tests.helpers.rows import RANK


def on_one_worker(bucket: int, capability: int, links: PdlLinks = ALL) -> pytest.MarkDecorator:
    """Return the mark of tests that `build` the same kernels: one worker compiles them, once."""
    linked = "".join("ny"[one] for one in (links.conv1d, links.precompute, links.state_update))
    return pytest.mark.xdist_group(f"build-{bucket}-{capability}-{linked}")


BUCKETS = pytest.mark.parametrize(
    ("bucket", "capability"),
    [
        pytest.param(*one, marks=on_one_worker(*one))
        for one in (*((bucket, 90) for bucket in RANK.buckets), (32, 100))
    ],
)
SMALL, LARGE = FusedLaunch(16), FusedLaunch(32, in_shared=True)
BY_ROWS = FusedLaunch(64, 4)  # warps share the rows of P


@dataclass(frozen=True)
class Built:
    """One compiled kernel and what was read from it."""

    sass: list[Instruction]
    ptx: list[Instruction]
    accesses: list[Access]
    usage: dict[str, int]
    is_linked: bool
    keywords: dict[str, Any]  # of the launch


@cache
def build(
    case: Case,
    links: PdlLinks,
    bucket: int,
    capability: int,
    fused: FusedLaunch | None = None,
    single: FusedLaunch | None = None,
) -> dict[str, Built]:
    """Return the kernels of a chain, of the pair or with fewer kernels."""
    built = {}
    for stage, launch in recorded_launches(case, links, bucket, fused, single).items():
        compiled = launch.compile(capability)
        built[stage] = Built(
            sass_instructions(compiled),
            ptx_instructions(compiled),
            accesses(compiled, launch.arguments_left()),
            resource_usage(compiled),
            bool(launch.keywords.get("launch_pdl", False)),
            launch.keywords,
        )
    last: Last = "state_update" if fused is None else "fused"
    stages = stages_of("single" if single else last)
    names = [stage.name for stage in stages if links.conv1d or not stage.behind]
    assert list(built) == names
    return built


def build_all(case: Case, links: PdlLinks, bucket: int, capability: int) -> dict[str, Built]:
    """Return the kernels of all chains. fused: with small tiles in the smallest bucket."""
    where = (case, links, bucket, capability)
    fused = build(*where, SMALL if bucket == 1 else LARGE)
    return build(*where, single=BY_ROWS) | fused | build(*where)


def indices(instructions: list[Instruction], *opcodes: str) -> list[int]:
    return [i for i, instruction in enumerate(instructions) if instruction.has(*opcodes)]
