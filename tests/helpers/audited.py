# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels of the chain as it is shipped, for the audit, and what they are held to.

One rank of eight of a real model, as in tests/test_aot.py. Nothing runs, no GPU is needed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from graphrt.capture.audit.links import KernelCode, Link, chain_links
from graphrt.config import PdlLinks
from graphrt.kernels.links import linked_stages, stages_of
from graphrt.kernels.tuning import FusedLaunch
from tests.helpers.aot import recorded_launches
from tests.helpers.built import BY_ROWS, SMALL
from tests.helpers.cases import Case
from tests.helpers.links import ALL
from tests.helpers.rows import FP16, RANK

STOCHASTIC = replace(RANK, state_dtype=FP16, rounding="stochastic")
BARE = replace(RANK, has_D=False, has_z=False, has_dt_bias=False, has_conv_bias=False)
EARLY, LATE = 1, 64  # rows of RANK where a state update loads B before its wait, and after it


PAIR, FUSED, SINGLE = (stages_of(last) for last in ("state_update", "fused", "single"))


@cache
def codes(
    case: Case,
    links: PdlLinks,
    bucket: int,
    capability: int,
    fused: FusedLaunch | None = None,
    single: FusedLaunch | None = None,
) -> dict[str, KernelCode]:
    launches = recorded_launches(case, links, bucket, fused, single)
    return {stage: KernelCode.of(one.compile(capability)) for stage, one in launches.items()}


def links_of() -> dict[str, Link]:
    """Return the links of all chains: what they share is the same in each."""
    links: dict[str, Link] = {}
    for chain in (SINGLE, FUSED, PAIR):
        links |= chain_links(chain, linked_stages(ALL, chain))
    return links


def code_of(stage: str) -> KernelCode:
    fused = SMALL if stage == "fused" else None
    single = BY_ROWS if stage.startswith("single") else None
    return codes(RANK, ALL, EARLY, 90, fused, single)[stage]
