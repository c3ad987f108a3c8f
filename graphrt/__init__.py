# SPDX-License-Identifier: Apache-2.0
"""Mamba-2 speculative decoding at static shapes, by the replay method, in captured graphs.

Names are loaded when first used, so that ``graphrt info`` answers even where PyTorch does not load.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from graphrt._version import __version__

if TYPE_CHECKING:
    from graphrt.cache import Prefilled
    from graphrt.config import ChainShape, PdlLinks, RuntimeConfig
    from graphrt.errors import (
        AcceptError,
        CaptureError,
        CheckpointError,
        ConfigError,
        ContractError,
        DriverError,
        GraphrtError,
        MemoryPlanError,
        ReportError,
        SlotError,
    )
    from graphrt.kernels.chain import BoundChain
    from graphrt.kernels.prefill import prefill_layer
    from graphrt.kernels.tensors import LayerInputs, LayerWeights
    from graphrt.runtime import DecodeRuntime
    from graphrt.step import ChainStep, Step

_HOMES = {
    "BoundChain": "kernels.chain",
    "ChainShape": "config",
    "ChainStep": "step",
    "DecodeRuntime": "runtime",
    "AcceptError": "errors",
    "CaptureError": "errors",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "ContractError": "errors",
    "DriverError": "errors",
    "GraphrtError": "errors",
    "MemoryPlanError": "errors",
    "ReportError": "errors",
    "SlotError": "errors",
    "LayerInputs": "kernels.tensors",
    "LayerWeights": "kernels.tensors",
    "PdlLinks": "config",
    "Prefilled": "cache",
    "RuntimeConfig": "config",
    "Step": "step",
    "prefill_layer": "kernels.prefill",
}

__all__ = [
    "AcceptError",
    "BoundChain",
    "CaptureError",
    "ChainShape",
    "ChainStep",
    "CheckpointError",
    "ConfigError",
    "ContractError",
    "DecodeRuntime",
    "DriverError",
    "GraphrtError",
    "LayerInputs",
    "LayerWeights",
    "MemoryPlanError",
    "PdlLinks",
    "Prefilled",
    "ReportError",
    "RuntimeConfig",
    "SlotError",
    "Step",
    "__version__",
    "prefill_layer",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'graphrt' has no attribute '{name}'")
    value = getattr(import_module(f"graphrt.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
