# SPDX-License-Identifier: Apache-2.0
"""One launch of the kernels against the same launch of the twins, from the same caches.

Whatever a launch must not write is compared bit for bit, and so is what it only copies. What it
computes may differ by what the order of fp32 sums does: outputs by MAX_ERROR per row and head, a
16-bit ring row or checkpoint by one step of its dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphrt.cache import ReplayCache

CACHES = ("state", "x_ring", "b_ring", "dt_ring", "conv_ring")
CURSORS = (
    "held",
    "ring_start",
    "conv_pos",
    "flushed",
    "last_tokens",
    "rand_seed",
    "accepted",
)

MAX_ERROR = 1e-2
# What fp32 sums may be off, relative to the largest of their kind.
FP32_SUMS = 1e-5

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Mismatch(AssertionError):
    """Two runs of a launch differ by more than they may."""


def copy_cache(source: ReplayCache, target: ReplayCache) -> None:
    """Make ``target``, of the same configuration, equal to ``source`` but for its scratch."""
    for name in CACHES:
        getattr(target, name).copy_(getattr(source, name))
    for name in CURSORS:
        getattr(target.cursors, name).copy_(getattr(source.cursors, name))


def check_same_bits(got: Tensor, expected: Tensor, what: str) -> None:
    """Raise Mismatch unless all bits are equal; NaN equals itself."""
    differ = int((_bits(got) != _bits(expected)).sum())
    if differ:
        raise Mismatch(f"{what}: {differ} of {got.numel()} elements differ")


def check_same_caches(got: ReplayCache, expected: ReplayCache) -> None:
    """Raise Mismatch unless caches and cursors are equal, bit for bit."""
    for name in CACHES:
        check_same_bits(getattr(got, name), getattr(expected, name), name)
    for name in CURSORS:
        check_same_bits(getattr(got.cursors, name), getattr(expected.cursors, name), name)


def check_outputs(got: Tensor, expected: Tensor, rows: int) -> float:
    """Return the largest ||got - expected|| / ||expected|| per row, layer and head.

    Both (bucket, layers, T, H, P). Raises Mismatch above MAX_ERROR, for NaN, and unless the rows
    from ``rows`` on are zeros.
    """
    if bool((got[rows:] != 0).any()):
        raise Mismatch("y: padding rows are not all zeros")
    reference = expected[:rows].float()
    error = (got[:rows].float() - reference).norm(dim=4).norm(dim=2)
    relative = error / reference.norm(dim=4).norm(dim=2)
    worst = float(relative.nan_to_num(nan=torch.inf).max())
    if not worst <= MAX_ERROR:
        raise Mismatch(f"y: relative error {worst:.3e} of a row and head, allowed {MAX_ERROR:g}")
    return worst


def check_caches(got: ReplayCache, twin: ReplayCache, slots: Tensor, tokens: int) -> None:
    """Compare caches and cursors after both launched ``slots`` (int64) with T ``tokens``."""
    for name in CURSORS:
        check_same_bits(getattr(got.cursors, name), getattr(twin.cursors, name), name)
    cursors, config = twin.cursors, twin.config
    live = torch.zeros(config.slots, dtype=torch.bool, device=slots.device)
    live[slots] = True
    ring_row = torch.arange(config.ring_rows, device=slots.device)
    past_start = ring_row - (cursors.ring_start + cursors.held)[:, None]
    new = live[:, None] & (past_start % config.ring_rows < tokens)  # [slots, R]
    _check_close(got, twin, "state", (live & cursors.flushed.bool())[None, :, None, None, None])
    _check_close(got, twin, "x_ring", new[None, :, None, :, None])
    _check_close(got, twin, "b_ring", new[None, :, None, :, None])
    _check_close(got, twin, "dt_ring", new[None, :, None, :])
    check_same_bits(got.conv_ring, twin.conv_ring, "conv_ring")


def _check_close(got_cache: ReplayCache, twin: ReplayCache, name: str, written: Tensor) -> None:
    """Require equal bits, and where ``written`` is true no more than closeness."""
    got, expected = getattr(got_cache, name), getattr(twin, name)
    same = _bits(got) == _bits(expected)
    difference = (got.float() - expected.float()).abs()
    size = expected.float().abs()
    if got.dtype.itemsize == 2:
        scale = size.nan_to_num(0.0).amax((-2, -1), keepdim=True)
        close = (_steps_apart(got, expected) <= 1) & (difference < torch.inf)
        close |= difference <= FP32_SUMS * scale
    else:
        close = difference <= FP32_SUMS * size
    bad = ~(same | (written & close))
    count = int(bad.sum())
    if count:
        first = tuple(bad.nonzero()[0].tolist())
        raise Mismatch(
            f"{name}: {count} of {got.numel()} elements differ, first at {first}: "
            f"{got[first].item()}, the twin {expected[first].item()}"
        )


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(_INTEGERS[tensor.dtype.itemsize])


def _steps_apart(a: Tensor, b: Tensor) -> Tensor:
    """Return how many numbers of the 16-bit dtype lie from ``a`` to ``b``."""
    return (_ordered(a) - _ordered(b)).abs()


def _ordered(tensor: Tensor) -> Tensor:
    """Return integers that rise with the 16-bit values, one by one."""
    bits = _bits(tensor).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)
