# SPDX-License-Identifier: Apache-2.0
"""What a test case's chain launches, to be compiled for a GPU that is not there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from graphrt.cache import ReplayCache
from graphrt.config import PdlLinks
from graphrt.kernels.ahead import Launch, recorded
from graphrt.kernels.chain import BoundChain
from graphrt.kernels.tuning import FusedLaunch
from tests.helpers.cases import Case


def recorded_launches(
    case: Case,
    links: PdlLinks,
    bucket: int,
    fused: FusedLaunch | None = None,
    single: FusedLaunch | None = None,
) -> dict[str, Launch]:
    """Return what two layers of ``case``'s chain launch, by stage. Nothing is computed.

    fused: the kernel that runs instead of precompute and state update, if any. single: the one that
    runs instead of these and conv1d.
    """
    cache = ReplayCache(case.config("cpu"))
    slot_ids = torch.full((bucket,), -1, dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    chain = BoundChain(cache, slot_ids, case.tokens)
    with pytest.MonkeyPatch.context() as patch, recorded() as launches:
        patch.setattr(chain, "_use_kernels", True)
        patch.setattr(chain, "_links", links)
        patch.setattr(chain, "_launch", replace(chain._launch, fused=fused, single=single))
        chain.advance()
        inputs = case.inputs([True] * bucket, case.tokens, generator)
        weights = case.weights(generator)
        out = case.empty_out(bucket, case.tokens, "cpu")
        for _ in range(2):
            chain.layer(0, inputs, weights, out)
    return launches
