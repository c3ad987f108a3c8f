# SPDX-License-Identifier: Apache-2.0
"""What is timed: anything that can be captured into a graph."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from graphrt.bench.timing import Timed, Work
from graphrt.capture.space import capture_space
from graphrt.latency.budget import Budget
from graphrt.latency.fingerprint import Fingerprint, fingerprint
from graphrt.latency.quantities import WHOLE, Key
from graphrt.latency.samplers import (
    Marginal,
    Recapture,
    Samplers,
    gpu_span,
    host_launch,
    step,
    synchronize,
)


class Subject(Protocol):
    """One build of a case: allocated, captured, and ready to be sampled until it is closed."""

    def samplers(self) -> Samplers:
        """Return what can be sampled, in the order it shall be."""

    def what(self) -> dict[str, Any]:
        """Return the case's sizes, as JSON has them. Cases of one name must agree in them."""

    def facts(self) -> dict[str, Any]:
        """Return what may explain a change: ``fingerprint``, ``static``, ``tuning``."""

    def check(self) -> str:
        """Run the correctness gate and return what it found, or raise GateError."""

    def close(self) -> None:
        """Let everything go."""


Build = Callable[[], Subject]
"""Makes a new build of a case."""


class GraphSubject:
    """Any callable over static tensors, captured into a graph: a module's forward, a whole step.

    work: enqueues the same work every time, and is safe under capture; run twice before. parts:
    callables that together do what ``work`` does, to say which of them moved. step: one step of the
    loop that ``work`` is part of, its result waited for; default is a launch that is waited for.
    gate: raises where the work computes something wrong. fingerprint: how a graph is described.
    """

    def __init__(
        self,
        work: Work,
        device: torch.device,
        budget: Budget,
        *,
        parts: Mapping[str, Work] | None = None,
        step: Work | None = None,
        gate: Callable[[], object] | None = None,
        what: Mapping[str, Any] | None = None,
        fingerprint: Fingerprint = fingerprint,
    ) -> None:
        """Capture everything. Raises CaptureError if the work cannot be captured."""
        self._device, self._budget, self._gate = device, budget, gate
        self._what, self._fingerprint = dict(what or {}), fingerprint
        space = capture_space(device)
        space.prepare()
        space.warm_up(work)
        space.warm_up(work)
        self.graph = space.graph("timed graph")
        self.graph.capture(work)
        self.graph.instantiate()
        self.graph.upload()
        self._step = step or self._launch_and_wait
        self._recapture = Recapture(space, work, device)
        timed = {WHOLE: Timed([work] * budget.calls)}
        timed |= {name: Timed([part] * budget.calls) for name, part in (parts or {}).items()}
        self._marginal = Marginal(space, timed, device) if device.type == "cuda" or parts else None

    def samplers(self) -> Samplers:
        """Return every quantity that this device has."""
        return graph_samplers(
            self.graph.launch,
            self._step,
            self._recapture,
            self._marginal,
            self._device,
            self._budget,
        )

    def what(self) -> dict[str, Any]:
        """Return what was given."""
        return self._what

    def facts(self) -> dict[str, Any]:
        """Return the graph's fingerprint."""
        return {"fingerprint": self._fingerprint(self.graph)}

    def check(self) -> str:
        """Run the gate, where there is one."""
        if self._gate is None:
            return "no gate"
        self._gate()
        return "passed"

    def close(self) -> None:
        """Close the graphs."""
        self._recapture.close()
        if self._marginal is not None:
            self._marginal.close()
        self.graph.close()
        release(self._device)

    def _launch_and_wait(self) -> None:
        self.graph.launch()
        synchronize(self._device)


def graph_samplers(
    launch: Work,
    run_step: Work,
    recapture: Recapture,
    marginal: Marginal | None,
    device: torch.device,
    budget: Budget,
) -> Samplers:
    """Return the samplers of a captured graph: device times only where there is a GPU."""
    found: Samplers = recapture.samplers(budget.recaptures)
    found[Key("host_launch")] = host_launch(launch, device, budget.host_calls)
    found[Key("step")] = step(run_step, budget.steps)
    if device.type == "cuda":
        found[Key("gpu_span")] = gpu_span(launch, device, budget.launches)
    if marginal is not None:
        found |= marginal.samplers(budget.marginals)
    return found


def release(device: torch.device) -> None:
    """Collect garbage and give cached memory back, so that the next build starts from nothing."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
