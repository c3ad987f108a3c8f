# SPDX-License-Identifier: Apache-2.0
"""sanitizer: compute-sanitizer's memcheck and racecheck over `tools.gpu.small_chain`."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from graphrt.bench.conditions import REPOSITORY
from tools.gpu.settings import Settings

TOOLS = ("memcheck", "racecheck")
ERROR_CODE = 9
PROGRAM = ("-m", "tools.gpu.small_chain")
# With an allocation of its own for every tensor an access beside it is seen, not only one beside
# PyTorch's whole block.
PLAIN_ALLOCATOR = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
_SUMMARY = re.compile(r"=+ ((?:ERROR|RACECHECK) SUMMARY:.*)")
_LAST_CHARACTERS = 3000


def sanitizer(settings: Settings) -> dict[str, Any]:
    """Run both tools side by side; each must end with code 0 and a summary of no errors."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"failures": ["compute-sanitizer is not on the PATH"], "tools": []}
    with tempfile.TemporaryDirectory() as logs:
        return _watch(tool, Path(logs), settings)


def _watch(tool: str, logs: Path, settings: Settings) -> dict[str, Any]:
    failures: list[str] = []
    limit = settings.sanitizer_seconds
    program = [sys.executable, *PROGRAM, "--device", str(settings.device)]

    # Once without a tool: compiles the kernels, and shows that the program itself runs.
    extra = PLAIN_ALLOCATOR
    alone = Run("plain", program, extra, logs)
    alone.wait(limit)
    if alone.code != 0:
        failures.append(f"plain allocator: ends with {alone.code}: {alone.output}")
        extra = {}
        alone = Run("caching", program, extra, logs)
        alone.wait(limit)
    if alone.code != 0:
        failures.append(f"caching allocator: ends with {alone.code}: {alone.output}")
        return {"failures": failures, "tools": []}

    with ExitStack() as cleanup:
        started = [Run(name, _command(tool, name, program), extra, logs) for name in TOOLS]
        for run in started:
            cleanup.callback(run.kill)
        for run in started:
            run.wait(limit)
    for run in started:
        if run.code != 0 or not clean(run.summary):
            failures.append(f"{run.name} ends with {run.code}, {run.summary}: {run.output}")
    return {
        "failures": failures,
        "version": _version(tool),
        "program": alone.output.strip().rpartition("\n")[2],
        "tools": [
            {
                "tool": run.name,
                "command": shlex.join(_command(Path(tool).name, run.name, ["python", *PROGRAM])),
                "exit_code": run.code,
                "summary": run.summary,
                "seconds": round(run.seconds, 1),
            }
            for run in started
        ],
    }


class Run:
    """A program in a process group of its own, its output in a file.

    After `wait`: ``code`` is None if it had to be ended, ``output`` the end of what it wrote,
    ``summary`` the last summary line in it.
    """

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str], logs: Path
    ) -> None:
        """Start it, from the root of the repository."""
        self.name = name
        self.code: int | None = None
        self.output = ""
        self.summary = "no summary"
        self.seconds = 0.0
        self._log = logs / f"{name}.log"
        self._start = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, limit: float) -> None:
        """Wait for its end, or end it ``limit`` seconds after its start."""
        try:
            self.code = self._process.wait(max(0.0, self._start + limit - time.perf_counter()))
        except subprocess.TimeoutExpired:
            self.kill()
            self.summary = f"not done after {limit:g} s"
        self.seconds = time.perf_counter() - self._start
        text = self._log.read_text(encoding="utf-8", errors="replace")
        self.output = text[-_LAST_CHARACTERS:]
        self.summary = (_SUMMARY.findall(text) or [self.summary])[-1].strip()

    def kill(self) -> None:
        """End it and what it started, if it still runs."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def clean(summary: str) -> bool:
    """Return whether a tool's summary line counts no error and no hazard."""
    numbers = re.findall(r"(\d+) (?:error|hazard|warning)", summary)
    return bool(numbers) and not any(int(number) for number in numbers)


def _options(tool: str) -> list[str]:
    # Errors of API calls are left out: graphrt looks at every status, and libraries probe.
    memcheck = ["--report-api-errors", "no"] if tool == "memcheck" else []
    return [
        "--tool",
        tool,
        *memcheck,
        "--target-processes",
        "application-only",
        "--error-exitcode",
        str(ERROR_CODE),
    ]


def _command(compute_sanitizer: str, tool: str, program: list[str]) -> list[str]:
    return [compute_sanitizer, *_options(tool), *program]


def _version(tool: str) -> str:
    answer = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=20)
    lines = [line for line in answer.stdout.splitlines() if "ersion" in line]
    return lines[-1].strip() if lines else answer.stdout.strip()
