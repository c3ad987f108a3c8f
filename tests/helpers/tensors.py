# SPDX-License-Identifier: Apache-2.0
"""Tensors in their storage: copies that keep strides, poison, proof that nothing was written."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphrt.kernels.tensors import LayerInputs, LayerWeights
from tests.helpers.checks import Mismatch, check_same_bits


def poisoned(
    dims: tuple[int, ...], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Tensor:
    """Return a tensor full of NaN."""
    return torch.full(dims, math.nan, dtype=dtype, device=device)


def storage_of(tensor: Tensor) -> Tensor:
    """Return the whole storage ``tensor`` is a view of, as one flat tensor."""
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())


def place(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a copy of ``tensor`` on ``device`` with the same strides, offset and surroundings."""
    flat = storage_of(tensor).to(device, copy=True)
    return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def rows_of(inputs: LayerInputs, rows: list[int]) -> LayerInputs:
    """Return a copy of some rows of ``inputs``."""
    z = None if inputs.z is None else inputs.z[rows]
    return LayerInputs(inputs.xbc[rows], inputs.dt[rows], z)


def to_cpu(tensor: Tensor) -> Tensor:
    """Return a copy of ``tensor`` on the CPU."""
    return tensor.detach().to("cpu", copy=True)


def place_weights(weights: LayerWeights, device: torch.device | str) -> LayerWeights:
    """Return a copy of ``weights`` on ``device``."""
    return LayerWeights(**{name: _place(weights, name, device) for name in LayerWeights.__slots__})


def place_inputs(inputs: LayerInputs, device: torch.device | str) -> LayerInputs:
    """Return a copy of ``inputs`` on ``device`` with the same strides."""
    return LayerInputs(**{name: _place(inputs, name, device) for name in LayerInputs.__slots__})


def _place(
    group: LayerWeights | LayerInputs, name: str, device: torch.device | str
) -> Tensor | None:
    tensor = getattr(group, name)
    return None if tensor is None else place(tensor, device)


def flat_copies(group: LayerWeights | LayerInputs) -> dict[str, Tensor]:
    """Return the whole storage behind each tensor of ``group``."""
    tensors = {name: getattr(group, name) for name in type(group).__slots__}
    return {name: to_cpu(storage_of(t)) for name, t in tensors.items() if t is not None}


def check_unwritten(
    group: LayerWeights | LayerInputs, before: dict[str, Tensor], what: str
) -> None:
    """Require the storage behind each tensor of ``group`` to be what ``before`` has."""
    after = flat_copies(group)
    if after.keys() != before.keys():
        raise Mismatch(f"{what}: {sorted(after)} but {sorted(before)} before")
    for name, flat in after.items():
        check_same_bits(flat, before[name], f"{what}.{name} is read only")
