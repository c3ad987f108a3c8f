# SPDX-License-Identifier: Apache-2.0
"""Writing a report so that a crash leaves the one before it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json(report: dict[str, Any], path: Path) -> None:
    """Write ``report`` to ``path``: all of it, or what was there before stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
