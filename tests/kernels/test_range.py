# SPDX-License-Identifier: Apache-2.0
"""Moving bf16 C into fp16's range by a product in bf16 gives the bits that one in fp32 gives."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize("exponent", range(15, 256))
def test_a_product_in_bf16_loses_nothing_that_fp16_holds(exponent: int) -> None:
    """For every bf16 C no larger than what the scale was chosen for (`dot.scales`)."""
    every = torch.arange(1 << 15, dtype=torch.int32)
    magnitude = every[every >> 7 <= exponent].to(torch.int16).view(torch.bfloat16)
    c = torch.cat([magnitude, -magnitude])
    scale = torch.tensor((268 - exponent) << 23, dtype=torch.int32).view(torch.float32)
    assert scale.to(torch.bfloat16).float() == scale
    whole = (c.float() * scale).half()
    short = (c * scale.to(torch.bfloat16)).half()
    assert torch.equal(
        whole.view(torch.int16)[~whole.isnan()], short.view(torch.int16)[~whole.isnan()]
    )
    assert torch.equal(whole.isnan(), short.isnan())
    assert whole[(c.float().abs() <= 3e38) & ~c.isnan()].isfinite().all()
