# SPDX-License-Identifier: Apache-2.0
"""A side in a process of its own: reads one JSON request a line, answers with one JSON line.

`graphrt.latency.worker_start` runs this with another commit's graphrt under this harness, so that
both sides of a comparison are measured by the same code.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import torch

from graphrt.latency.budget import Budget
from graphrt.latency.cases import from_description
from graphrt.latency.chain import chain_builder
from graphrt.latency.interleave import LocalSide
from graphrt.latency.quantities import Key
from graphrt.latency.recorder import machine_conditions
from graphrt.latency.yardsticks import Yardsticks


def serve() -> None:
    """Answer requests until the input ends. Whatever else is printed goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = _Worker()
    for line in sys.stdin:
        request = json.loads(line)
        _answer(answers, worker, request)


def _answer(answers: TextIO, worker: _Worker, request: dict[str, Any]) -> None:
    try:
        reply = {"ok": worker.do(request)}
    except Exception as error:  # the other process decides what it means
        reply = {"error": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(reply) + "\n")
    answers.flush()


class _Worker:
    def __init__(self) -> None:
        self._side: LocalSide | None = None

    def do(self, request: dict[str, Any]) -> Any:
        name = request["do"]
        if name == "start":
            return self._start(request)
        side = self._side
        assert side is not None  # start comes first
        moves: dict[str, Callable[[], Any]] = {
            "build": lambda: [[*key, limit] for key, limit in side.build(request["case"]).items()],
            "sample": lambda: side.sample(Key(*request["key"])),
            "yardsticks": lambda: [[*key, block] for key, block in side.yardsticks().items()],
            "what": side.what,
            "facts": side.facts,
            "check": side.check,
            "release": side.release,
        }
        return moves[name]()

    def _start(self, request: dict[str, Any]) -> dict[str, Any]:
        device, budget = torch.device(request["device"]), Budget(**request["budget"])
        torch.set_num_threads(request["threads"])
        builders = {
            name: chain_builder(from_description(told), device, budget)
            for name, told in request["cases"].items()
        }
        self._side = LocalSide(request["label"], builders, Yardsticks(device))
        return machine_conditions(device)
