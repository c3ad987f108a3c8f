# SPDX-License-Identifier: Apache-2.0
"""Tests of the Triton kernels under Triton's interpreter, a pytest process of their own."""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    raise pytest.UsageError(
        "tests/interpreter needs TRITON_INTERPRET=1 before Triton is imported; "
        "run: TRITON_INTERPRET=1 pytest tests/interpreter"
    )

from tests.helpers.patched_once import patch_once  # imports Triton

patch_once()
