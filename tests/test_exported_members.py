# SPDX-License-Identifier: Apache-2.0
"""The public surface: small, documented, and changed only on purpose."""

import types

import pytest

import graphrt
from graphrt import errors

PUBLIC = [
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


def test_all_is_the_public_surface() -> None:
    assert sorted(graphrt.__all__) == PUBLIC


def test_nothing_else_is_public() -> None:
    leaked = {
        name
        for name in dir(graphrt)
        if not name.startswith("_")
        and name not in ("annotations", "TYPE_CHECKING")
        and not isinstance(getattr(graphrt, name), types.ModuleType)
    }
    assert leaked <= set(PUBLIC)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_every_name_is_ours_and_documented(name: str) -> None:
    member = getattr(graphrt, name)
    assert member.__module__.startswith("graphrt.")
    assert member.__doc__


def test_every_error_is_public_and_in_the_tree_of_the_docstring() -> None:
    raised = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert raised
    for name in raised:
        assert name in graphrt.__all__
        assert name in (errors.__doc__ or "")
