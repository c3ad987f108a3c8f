# SPDX-License-Identifier: Apache-2.0
"""The near end of a side that lives in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from graphrt.bench.cases import Case
from graphrt.errors import sentence
from graphrt.latency.budget import Budget
from graphrt.latency.errors import LatencyUnavailable
from graphrt.latency.quantities import Key

_START = Path(__file__).with_name("worker_start.py")


class RemoteSide:
    """The chain of the graphrt in ``tree``, measured there by this harness. A `Side`.

    Between requests the process waits for the next one and leaves the device alone. Raises
    LatencyUnavailable for whatever goes wrong there, with its words.
    """

    def __init__(
        self,
        label: str,
        tree: Path,
        cases: Mapping[str, Case],
        device: torch.device,
        budget: Budget,
    ) -> None:
        """Start the process and wait until it has imported the tree's graphrt."""
        self.label = label
        path = os.pathsep.join(filter(None, [str(tree), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, str(_START), str(tree)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            cwd=tree,
        )
        try:
            self.conditions: dict[str, Any] = self._ask(
                "start",
                label=label,
                device=str(device),
                budget=asdict(budget),
                cases={name: case.describe() for name, case in cases.items()},
                threads=torch.get_num_threads(),
            )
        except BaseException:
            self.close()
            raise

    def build(self, case: str) -> dict[Key, int]:
        """Make a build there."""
        return {Key(name, part): most for name, part, most in self._ask("build", case=case)}

    def sample(self, key: Key) -> list[float]:
        """Take one block there."""
        return list(self._ask("sample", key=list(key)))

    def yardsticks(self) -> dict[Key, list[float]]:
        """Take one block of each there."""
        return {Key(name, part): block for name, part, block in self._ask("yardsticks")}

    def what(self) -> dict[str, Any]:
        """Ask there."""
        return dict(self._ask("what"))

    def facts(self) -> dict[str, Any]:
        """Ask there."""
        return dict(self._ask("facts"))

    def check(self) -> str:
        """Run the gate there."""
        return str(self._ask("check"))

    def release(self) -> None:
        """Close the build there."""
        if self._process.poll() is None:
            self._ask("release")

    def close(self) -> None:
        """End the process."""
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def __enter__(self) -> RemoteSide:
        """Return the side itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self.close()

    def _ask(self, move: str, **more: Any) -> Any:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": move, **more}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise LatencyUnavailable(
                sentence(
                    self.label,
                    f"exit code {process.wait()}",
                    "the process that measures it has ended",
                    "read what it wrote on stderr, above",
                )
            )
        reply = json.loads(line)
        if "error" in reply:
            raise LatencyUnavailable(f"{self.label}: {reply['error']}")
        return reply["ok"]
