# SPDX-License-Identifier: Apache-2.0
"""The chain of this package as a subject: launched, stepped, and each stage by itself."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graphrt.bench.cases import Case
from graphrt.bench.gate import check_chain
from graphrt.bench.stages import (
    advance_calls,
    chain_calls,
    chosen_launch,
    layer_stages,
    stage_calls,
)
from graphrt.bench.timing import Timed, Work
from graphrt.bench.workload import Effort, Workload, random_weights
from graphrt.capture.space import capture_space
from graphrt.kernels.chain import BoundChain
from graphrt.latency.budget import Budget
from graphrt.latency.facts import races_of, static_of
from graphrt.latency.fingerprint import Fingerprint, fingerprint
from graphrt.latency.quantities import WHOLE, Key
from graphrt.latency.samplers import Marginal, Recapture, Samplers
from graphrt.latency.subject import graph_samplers, release
from graphrt.runtime import DecodeRuntime
from graphrt.step import ChainBuffers, ChainStep

LAYERS = 4
_GATE_RUNS = 3


@dataclass(frozen=True, slots=True)
class Planted:
    """A loss put in on purpose, to see whether it is found: ``work`` after a ``stage``."""

    stage: str
    work: Work


class _PlantedStep:
    """The chain alone, and what is planted after the last layer."""

    def __init__(self, step: ChainStep, planted: Planted | None) -> None:
        self._step, self._planted = step, planted

    def buffers(self, bucket: int, tokens: int) -> ChainBuffers:
        return self._step.buffers(bucket, tokens)

    def __call__(self, chain: BoundChain, buffers: ChainBuffers) -> None:
        self._step(chain, buffers)
        if self._planted is not None:
            self._planted.work()


class ChainSubject:
    """A launch of LAYERS layers of ``case``, and one layer's stages on cold caches.

    What is launched accepts 1 … T tokens a row, so that flushes come as they would. The gate is the
    benchmark's: the chain against its twins, on the very caches that are timed. quantities: what
    will be sampled, None: all; without ``step`` the runtime's own graph is not captured.
    """

    def __init__(
        self,
        case: Case,
        device: torch.device,
        budget: Budget,
        *,
        planted: Planted | None = None,
        quantities: Collection[str] | None = None,
        fingerprint: Fingerprint = fingerprint,
    ) -> None:
        """Allocate, compile, capture. Raises MemoryPlanError or CaptureError."""
        self._case, self._device, self._budget = case, device, budget
        self._fingerprint, self._planted = fingerprint, planted
        config = replace(case.config(case.batch, device), layers=LAYERS)
        generator = torch.Generator(device).manual_seed(0)
        weights = [
            random_weights(case.shape, case.activation_dtype, generator) for _ in range(LAYERS)
        ]
        step = _PlantedStep(ChainStep(config, weights), planted)
        self._runtime = DecodeRuntime(config)
        steps = self._steps = quantities is None or "step" in quantities
        if steps:
            self._runtime.capture(step)
        self._rows = [self._runtime.admit() for _ in range(case.batch)]
        self._counts = [1 + (row + 2) % case.tokens for row in range(case.batch)]
        if steps:
            self._out = self._filled(self._runtime.buffers(case.batch), generator).out
        self._launch_graph(step, self._filled(step.buffers(case.batch, case.tokens), generator))
        self._work = Workload(
            case, device, Effort(l2_times=budget.l2_times, calls=budget.calls), seed=0
        )
        self._marginal = Marginal(capture_space(device), self._parts(), device)

    def samplers(self) -> Samplers:
        """Return every quantity that this device has, of the launch and of its stages."""
        found = graph_samplers(
            self.graph.launch,
            self._step,
            self._recapture,
            self._marginal,
            self._device,
            self._budget,
        )
        if not self._steps:
            del found[Key("step")]
        return found

    def what(self) -> dict[str, Any]:
        """Return the case, and the layers of a launch."""
        return {**self._case.describe(), "layers": LAYERS}

    def facts(self) -> dict[str, Any]:
        """Return the graph's fingerprint, its kernels' static facts and races, the tuning entry."""
        launch = chosen_launch(self._work)
        return {
            "fingerprint": self._fingerprint(self.graph),
            "static": static_of(self._chain.compiled),
            "races": races_of(self._chain.compiled),
            "tuning": {"match": launch.match, **launch.choice()},
        }

    def check(self) -> str:
        """Compare the chain with its twins several times; return the largest error."""
        calls = chain_calls(self._work)
        worst = max(
            check_chain("chain", self._work, lambda index: calls[index]())
            for _ in range(_GATE_RUNS)
        )
        return f"largest error {worst:.1e} in {_GATE_RUNS} runs"

    def close(self) -> None:
        """Close the graphs and the runtime."""
        self._recapture.close()
        self._marginal.close()
        self.graph.close()
        self._runtime.close()
        if self._steps:
            del self._out
        del self._work, self._marginal, self._chain
        release(self._device)

    def _launch_graph(self, step: _PlantedStep, buffers: ChainBuffers) -> None:
        device, case = self._device, self._case
        slot_ids = torch.tensor(self._rows, dtype=torch.int32, device=device)
        counts = torch.tensor(self._counts, dtype=torch.int32, device=device)
        chain = self._chain = BoundChain(self._runtime.cache, slot_ids, case.tokens)

        def work() -> None:
            chain.advance()
            step(chain, buffers)
            chain.accept(counts)

        space = capture_space(device)
        space.warm_up(work)
        self.graph = space.graph("timed graph")
        self.graph.capture(work)
        self.graph.keep(*chain.compiled)
        self.graph.instantiate()
        self.graph.upload()
        self._recapture = Recapture(space, work, device)

    def _step(self) -> Tensor:
        runtime = self._runtime
        runtime.launch(self._rows)
        result = self._out[:, 0, 0, 0, 0].cpu()
        runtime.accept(self._counts)
        return result

    def _parts(self) -> dict[str, Timed]:
        work = self._work
        parts: dict[str, Timed] = {
            WHOLE: Timed(chain_calls(work, advance=True), work.restore),
            "advance": Timed(advance_calls(work), work.restore),
        }
        for stage in layer_stages(chosen_launch(work)):
            parts[stage] = Timed(stage_calls(work, (stage,)))
        planted = self._planted
        if planted is not None:
            for name in (WHOLE, planted.stage):
                calls = [_both(call, planted.work) for call in parts[name].calls]
                parts[name] = Timed(calls, parts[name].before_round)
        return parts

    @staticmethod
    def _filled(buffers: ChainBuffers, generator: torch.Generator) -> ChainBuffers:
        buffers.xbc.normal_(generator=generator)
        buffers.dt.normal_(generator=generator)
        return buffers


def chain_builder(
    case: Case,
    device: torch.device,
    budget: Budget,
    planted: Planted | None = None,
    quantities: Collection[str] | None = None,
) -> Callable[[], ChainSubject]:
    """Return what makes a build of ``case``; the arguments are those of `ChainSubject`."""
    return lambda: ChainSubject(case, device, budget, planted=planted, quantities=quantities)


def case_name(case: Case) -> str:
    """Return what a person calls the case; two configurations of one batch share it."""
    history = "" if case.history == "histogram" else f", {case.history}"
    return f"batch {case.batch}, T {case.tokens}{history}"


def _both(first: Work, second: Work) -> Work:
    def run() -> None:
        first()
        second()

    return run
