# SPDX-License-Identifier: Apache-2.0
"""Whether memory leaks on a GPU."""

from __future__ import annotations

import gc

import torch

BIG = 16 << 20
"""Elements of a temporary whose leak would be seen."""


def reserved_bytes() -> int:
    """Return what PyTorch's allocator holds once it has given back all it can."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()
