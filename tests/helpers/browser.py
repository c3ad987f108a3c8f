# SPDX-License-Identifier: Apache-2.0
"""Pages in a real browser without a window: what stands there, and how it looks."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

ARTEFACTS = Path(__file__).parent.parent.parent / "build" / "screenshots"
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=4000",
    "--enable-logging=stderr",
)


def browser() -> str:
    """Return the browser of this machine; skip the test, saying so, where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is installed")
    return found


def rendered(page: Path, at: str = "") -> str:
    """Return the document after its scripts ran. What they complain of fails the test."""
    return _run(page, at, "--dump-dom").stdout


def screenshot(page: Path, name: str, at: str = "", height: int = 1000) -> tuple[Path, int, int]:
    """Keep a picture of ``page`` as NAME.png and return where, its width and its height."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    path = ARTEFACTS / f"{name}.png"
    path.unlink(missing_ok=True)
    _run(page, at, f"--screenshot={path}", f"--window-size=1500,{height}")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, tall = struct.unpack(">II", data[16:24])
    return path, width, tall


def _run(page: Path, at: str, *flags: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                browser(),
                *_FLAGS,
                f"--user-data-dir={folder}",
                *flags,
                page.as_uri() + (f"#{at}" if at else ""),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not complaints, complaints[:5]
    return done
