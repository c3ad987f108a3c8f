# SPDX-License-Identifier: Apache-2.0
"""What a Triton launch hands back."""

from __future__ import annotations

from typing import TypeAlias

Compiled: TypeAlias = object
"""The compiled kernel a launch ran, None under the interpreter. A captured graph must hold it:
newer Triton unloads a kernel's module when the object dies."""

NO_CONTRACTION = {"enable_fp_fusion": False}
"""Options of every launch that computes. A multiplication and an addition stay two roundings: a
compiler makes one of them by the launch configuration's layout, and a row's bits must not differ.
"""
