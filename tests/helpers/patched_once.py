# SPDX-License-Identifier: Apache-2.0
"""Triton's interpreter patches its language once a kernel, not once more for each function called.

Every call of a function inside a kernel looks through all of `triton.language` for what to patch,
and finds it patched. That was half the time of an interpreted kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


def patch_once() -> None:
    """Have `interpreter._patch_lang` skip modules that the running kernel has had patched."""
    patch: Callable[[Any], Any] = interpreter._patch_lang
    modules_of: dict[Any, set[ModuleType]] = {}
    scopes: list[Any] = []
    patched: set[ModuleType] = set()

    def patch_lang(fn: Any) -> Any:
        if fn not in modules_of:
            found = [value for value in fn.__globals__.values() if isinstance(value, ModuleType)]
            modules_of[fn] = {module for module in found if module in (tl, tl.core)}
        if not modules_of[fn] <= patched:
            scopes.append(patch(fn))
            patched.update(modules_of[fn])
        return SimpleNamespace(restore=restore)  # which a kernel does when it ends

    def restore() -> None:
        while scopes:
            scopes.pop().restore()
        patched.clear()

    interpreter._patch_lang = patch_lang
