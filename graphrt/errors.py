# SPDX-License-Identifier: Apache-2.0
"""Every exception graphrt raises on purpose.

    GraphrtError
    ├── ConfigError      (ValueError)    a configuration, shape or argument that a rule forbids
    ├── MemoryPlanError  (MemoryError)   the tensors do not fit the device
    ├── CaptureError     (RuntimeError)  an illegal move of a graph, or a capture that failed
    │   └── ContractError                a captured graph that is not what its owner stated
    ├── SlotError        (ValueError)    a slot that may not be admitted, launched or released
    ├── AcceptError      (ValueError)    an accepted count outside 0 … last T
    ├── DriverError      (RuntimeError)  a CUDA call that failed
    ├── ReportError      (ValueError)    a report about a graph that cannot be read
    └── CheckpointError  (ValueError)    a model directory that cannot be loaded

Each message says what was wrong, which rule it broke, what was got, and how to mend it. An
exception is raised before anything is launched or changed, unless its docstring says otherwise.
"""

from __future__ import annotations


class GraphrtError(Exception):
    """Base of all graphrt errors."""


class ConfigError(GraphrtError, ValueError):
    """A value that a rule forbids, found while something is being constructed or called."""


class MemoryPlanError(GraphrtError, MemoryError):
    """More bytes are planned than the device has free; nothing was allocated."""


class CaptureError(GraphrtError, RuntimeError):
    """An illegal move of a graph, or a capture that failed; the runtime stays usable."""


class ContractError(CaptureError):
    """A captured graph that is not what its owner stated; the runtime is as before the capture."""


class SlotError(GraphrtError, ValueError):
    """A slot that may not be admitted, launched or released; nothing was launched."""


class AcceptError(GraphrtError, ValueError):
    """An accepted count outside 0 … the tokens of the slot's last launch."""


class DriverError(GraphrtError, RuntimeError):
    """A CUDA call that failed; the message names the call and CUDA's own reason."""


class ReportError(GraphrtError, ValueError):
    """A report about a graph that is truncated, of a newer schema, or no report at all."""


class CheckpointError(GraphrtError, ValueError):
    """A model directory whose files are missing, malformed or do not match its configuration."""


def sentence(what: str, got: object, rule: str, fix: str) -> str:
    """Return the one sentence all errors are written as: ``what=got: rule; fix``."""
    return f"{what}={got}: {rule}; {fix}"
