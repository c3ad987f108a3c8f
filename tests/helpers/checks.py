# SPDX-License-Identifier: Apache-2.0
"""Comparisons with the project's bounds. All of them raise `Mismatch` and refuse every NaN."""

from __future__ import annotations

import os

import torch
from torch import Tensor

# Largest relative error ||y - reference|| / ||reference||, per row and head.
TWIN_FP32 = 1e-5
KERNEL_FP32 = 1e-3
ACTIVATION_16_BIT = 1e-2

# Of sums, exponentials and logarithms in fp32, whatever the activations are.
FP32_SUMS = 1e-5

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Mismatch(AssertionError):
    """A backend and its reference differ by more than the bound, or where none is allowed."""


def bound(activation_dtype: torch.dtype, kernels: bool) -> float:
    """Return the contract's bound on outputs. It holds for every state dtype: see check_stored."""
    if activation_dtype != torch.float32:
        return ACTIVATION_16_BIT
    return KERNEL_FP32 if kernels else TWIN_FP32


def bits(tensor: Tensor) -> Tensor:
    """Return ``tensor``'s bits as integers, so that NaN equals itself and -0 differs from 0."""
    return tensor.detach().cpu().contiguous().view(_INTEGERS[tensor.dtype.itemsize])


def check_same_bits(got: Tensor, expected: Tensor, what: str) -> None:
    """Require equal shape, dtype and bits."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise Mismatch(
            f"{what}: {got.dtype} {tuple(got.shape)}, "
            f"expected {expected.dtype} {tuple(expected.shape)}"
        )
    if torch.equal(bits(got), bits(expected)):
        return
    where = (bits(got) != bits(expected)).nonzero()
    first = tuple(where[0].tolist())
    raise Mismatch(
        f"{what}: {len(where)} of {got.numel()} elements differ, first at {first}: "
        f"{got[first].item()}, expected {expected[first].item()}"
    )


def check_zeros(tensor: Tensor, what: str) -> None:
    """Require +0 everywhere."""
    check_same_bits(tensor, torch.zeros(tensor.shape, dtype=tensor.dtype), what)


def check_rows(got: Tensor, reference: Tensor, limit: float, what: str) -> float:
    """Require ||got - reference|| / ||reference|| ≤ limit per row and head; return the largest.

    Both (rows, T, H, P), the reference float64.
    """
    got = got.detach().cpu().double()
    error = (got - reference).pow(2).sum((1, 3)).sqrt()  # [rows, H]
    size = reference.pow(2).sum((1, 3)).sqrt()
    if not bool((error <= limit * size).all()):
        row, head = ((~(error <= limit * size)).nonzero()[0]).tolist()
        raise Mismatch(
            f"{what}: row {row} head {head} has error {error[row, head]:.3e} "
            f"of {size[row, head]:.3e}, allowed {limit:g} of it"
        )
    return float((error / size.clamp(min=torch.finfo(torch.float64).tiny)).max())


def check_dt(got: Tensor, reference: Tensor, what: str) -> None:
    """Require processed dt within FP32_SUMS of the reference, element by element."""
    error = (got.detach().cpu().double() - reference).abs()
    if not bool((error <= FP32_SUMS * reference.abs()).all()):
        raise Mismatch(f"{what}: off by {error.max():.3e}, allowed {FP32_SUMS:g} of each element")


def check_rounded(
    got: Tensor, true: Tensor, scale: Tensor, what: str, stochastic: bool = False
) -> None:
    """Require each element of ``got`` to be float64 ``true``, rounded once to ``got``'s dtype.

    Half a spacing is allowed to nearest, a whole one stochastically, and what fp32 arithmetic may
    be off before it rounds: FP32_SUMS of ``scale``, the size of the terms that were added up.
    Triton's interpreter cuts fp32 off at bf16 instead of rounding it: a whole spacing there.
    """
    cut_off = INTERPRETED and got.dtype == torch.bfloat16
    spacings = 1.0 if stochastic or cut_off else 0.5
    allowed = spacing(true, got.dtype) * spacings + FP32_SUMS * scale
    ratio = (got.detach().cpu().double() - true).abs() / allowed
    if not bool((ratio <= 1.0).all()):
        worst = ratio.nan_to_num(torch.inf).max()
        raise Mismatch(
            f"{what}: an element is {worst:.4g} x what its rounding allows from the truth"
        )


def check_stored(stored: Tensor, state: Tensor, limit: float, stochastic: bool, what: str) -> None:
    """Require ``stored`` (H, P, N) to be the true ``state`` (float64).

    An fp32 store is held to ``limit`` per head, like an output; a 16-bit store to its own rounding
    and no more. The caller then continues from what was stored, so that errors cannot add up
    unseen and the bounds on the outputs need no allowance for the state's dtype.
    """
    if stored.dtype == torch.float32:
        check_rows(stored[None].transpose(1, 2), state[None].transpose(1, 2), limit, what)
    else:
        check_rounded(stored, state, state.abs().amax((1, 2), keepdim=True), what, stochastic)


def spacing(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the distance between the two numbers of ``dtype`` around float64 ``value``."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(value).exponent.double() - 1  # 2 ** exponent ≤ |value|
    return (torch.exp2(exponent) * info.eps).clamp(min=info.smallest_normal * info.eps)
