# SPDX-License-Identifier: Apache-2.0
"""What a Triton launch hands back."""

from __future__ import annotations

from typing import TypeAlias

Compiled: TypeAlias = object
"""The compiled kernel a launch ran, None under the interpreter. A captured graph must hold it:
newer Triton unloads a kernel's module when the object dies."""
