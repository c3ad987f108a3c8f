# SPDX-License-Identifier: Apache-2.0
"""Sections that launch: poison, delayed producers, and what checking a capture costs."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
import triton
import triton.language as tl

from graphrt.cache import ReplayCache
from graphrt.capture.inspect.delay import delayed_producer_run
from graphrt.capture.inspect.poison import poison_run
from graphrt.declared import cache_manifest
from graphrt.kernels.chain import BoundChain
from graphrt.kernels.fused import fused
from graphrt.kernels.precompute import precompute
from graphrt.kernels.single import single
from graphrt.kernels.state_update import state_update
from graphrt.kernels.tensors import SCRATCH, LayerInputs
from graphrt.kernels.tuning import FusedLaunch, architecture, lookup
from graphrt.models.bundled import bundled_model
from graphrt.models.generate import TextGenerator
from graphrt.models.greedy import GreedyStep
from graphrt.poisoned import runtime_cases
from graphrt.runtime import DecodeRuntime
from graphrt.step import ChainStep
from tools.gpu.inspection.common import Context, chain_config, chain_runtime, lived_in
from tools.gpu.workload import random_weights


def poison(context: Context) -> dict[str, Any]:
    """The chain and the whole model read nothing but what they declare; a planted fault is seen."""
    found: dict[str, Any] = {"failures": []}
    config = chain_config(context.device, 2, buckets=(1, 2, 4))
    runtime, step = chain_runtime(config)
    with runtime:
        lived_in(runtime)
        report = poison_run(runtime_cases(runtime, step))
    found["chain"] = {"launches": report.launches, "failures": report.failures}
    found["failures"] += report.failures

    class Leaking(ChainStep):
        def __call__(self, chain: Any, buffers: Any) -> None:
            super().__call__(chain, buffers)
            buffers.out[0] += buffers.xbc[-1].sum() * 0  # a row of padding, and 0 * NaN is NaN

    weights = random_weights(config, torch.Generator(context.device).manual_seed(0))
    leaking = Leaking(config, weights)
    with DecodeRuntime(config) as runtime:
        runtime.capture(leaking, check=False)
        lived_in(runtime)
        report = poison_run(runtime_cases(runtime, leaking))
    found["planted"] = list(report.failures)
    if not any("reads padding of xbc" in failure for failure in report.failures):
        found["failures"].append("a step that reads a row of padding was not seen")

    with TextGenerator.from_directory(bundled_model(), device=context.device, slots=4) as made:
        made.generate(["def main("], 8)
        torch.cuda.synchronize()
        report = poison_run(runtime_cases(made.runtime, GreedyStep(made.model)))
    found["model"] = {"launches": report.launches, "failures": report.failures}
    found["failures"] += report.failures
    return found


@triton.jit
def _consumer(source_ptr, target_ptr, count, WAITS: tl.constexpr, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    if WAITS:
        tl.extra.cuda.gdc_wait()
    values = tl.load(source_ptr + places, mask=inside)
    if not WAITS:
        tl.extra.cuda.gdc_wait()
    tl.store(target_ptr + places, values * 2, mask=inside)


def delay(context: Context) -> dict[str, Any]:
    """A consumer that loads before its wait is seen, one that waits is not, nor are the stages."""
    found: dict[str, Any] = {"failures": []}
    source = torch.randn(4096, device=context.device)
    target = torch.zeros_like(source)
    for waits in (True, False):

        def consume(waits: bool = waits) -> None:
            _consumer[(4,)](source, target, 4096, WAITS=waits, BLOCK=1024, launch_pdl=True)

        consume()
        torch.cuda.synchronize()
        report = delayed_producer_run(consume, {"source": source}, {"target": target})
        found[f"waits {waits}"] = report.failures
        if report.passed != waits:
            found["failures"].append(f"a consumer with WAITS={waits} {report.failures or 'passed'}")
    return _stages(context, found)


def _stages(context: Context, found: dict[str, Any]) -> dict[str, Any]:
    config = chain_config(context.device, 1, buckets=(4,))
    generator = torch.Generator(context.device).manual_seed(0)
    weights = random_weights(config, generator)[0]
    cache = ReplayCache(config)
    shape, tokens = config.shape, config.tokens

    def noise(*dims: int) -> torch.Tensor:
        return torch.randn(dims, device=context.device, generator=generator).bfloat16()

    inputs = LayerInputs(xbc=noise(4, tokens, shape.conv_dim), dt=noise(4, tokens, shape.heads))
    out = noise(4, tokens, shape.heads, shape.head_dim)
    slot_ids = torch.arange(4, dtype=torch.int32, device=context.device)
    chain = BoundChain(cache, slot_ids, tokens)
    for _ in range(3):
        chain.advance()
        chain.layer(0, inputs, weights, out)
        cache.cursors.accepted.fill_(tokens)
    torch.cuda.synchronize()
    layer, scratch = cache.layer(0), cache.scratch(4, tokens)
    stage = (inputs, weights, layer, scratch)
    launch = lookup(
        shape,
        4,
        tokens=tokens,
        state_dtype=config.state_dtype,
        activation_dtype=config.activation_dtype,
        rounding=config.rounding,
        window=config.window,
        arch=architecture(context.device),
    )
    caches = {n: getattr(layer, n) for n in ("state", "x_ring", "b_ring", "dt_ring", "conv_ring")}
    saved = {name: tensor.clone() for name, tensor in caches.items()}

    def reset() -> None:
        for name, tensor in caches.items():
            tensor.copy_(saved[name])

    sizes: dict[str, Any] = {"shape": shape, "window": config.window, "links": config.pdl}

    def run_precompute() -> None:
        precompute(*stage, **sizes, launch=launch.precompute)

    def run_state_update() -> None:
        state_update(*stage, out, **sizes, stochastic=True, launch=launch.state_update)

    def run_fused() -> None:
        fused(*stage, out, **sizes, stochastic=True, launch=launch.fused or FusedLaunch(16))

    def run_single(behind: bool) -> None:
        choice = launch.single or FusedLaunch(64, 4)
        single(*stage, out, **sizes, stochastic=True, behind=behind, launch=choice)

    others = ("conv_out", "row_cursors")  # of conv1d and advance
    made = {name: getattr(scratch, name) for name in SCRATCH if name not in others}
    runs = {
        "precompute": (run_precompute, {"conv_out": scratch.conv_out}, made),
        "state_update": (run_state_update, {"conv_out": scratch.conv_out, **made}, {"out": out}),
        "fused": (run_fused, {"conv_out": scratch.conv_out}, {"out": out}),
        "single": (lambda: run_single(False), {"xbc": inputs.xbc, "dt": inputs.dt}, {"out": out}),
        "single_next": (
            lambda: run_single(True),
            {"xbc": inputs.xbc, "dt": inputs.dt},
            {"out": out},
        ),
    }
    for name, (run, fed, results) in runs.items():
        whole = {key: tensor for key, tensor in fed.items() if tensor.is_contiguous()}
        report = delayed_producer_run(run, whole, {**results, **caches}, reset=reset)
        found[name] = {"fed": sorted(whole), "failures": report.failures}
        found["failures"] += [f"{name}: {failure}" for failure in report.failures]
    return found


def overhead(context: Context) -> dict[str, Any]:
    """Checking a capture takes less than 5 % of its time; the kernels are compiled before."""
    config = chain_config(context.device, 48, buckets=(1, 2, 4, 8, 16, 32), slots=32)
    weights = random_weights(config, torch.Generator(context.device).manual_seed(0))
    step = ChainStep(config, weights)
    shares, seconds = [], {True: [], False: []}
    with DecodeRuntime(config) as runtime:
        runtime.capture(step, check=False)
        for _ in range(5):
            for check in (False, True):
                start = time.perf_counter()
                runtime.capture(step, check=check)
                seconds[check].append(time.perf_counter() - start)
            graphs = runtime.captured
            start = time.perf_counter()
            cache_manifest(runtime.cache, step)
            declaring = time.perf_counter() - start
            checking = sum(graph.check_seconds for graph in graphs)
            shares.append((checking + declaring) / seconds[True][-1])
        each = [
            {
                "bucket": graph.bucket,
                "ms": 1e3 * graph.seconds,
                "check_ms": 1e3 * graph.check_seconds,
            }
            for graph in graphs
        ]
        profile = _profile(runtime, step)
    share = statistics.median(shares)
    return {
        "failures": [] if share < 0.05 else [f"{100 * share:.1f} % of capture time"],
        "share": share,
        "shares": shares,
        "declaring_ms": 1e3 * declaring,
        "capture_ms": {f"check {k}": [1e3 * s for s in v] for k, v in seconds.items()},
        "graphs": each,
        "profile": profile,
    }


def _profile(runtime: Any, step: Any) -> list[str]:
    """Return where one check spends its time."""
    import cProfile
    import io
    import pstats

    from graphrt.capture.inspect.contract import violations
    from graphrt.declared import chain_contract

    captured = runtime.captured[0]
    chain = captured.value.chain
    contract = chain_contract(chain, runtime.config.layers, step)
    buffers = captured.value.manifest.declared()
    timings = []
    for _ in range(5):
        start = time.perf_counter()
        violations(captured.graph, contract, chain.compiled, buffers)
        timings.append(1e3 * (time.perf_counter() - start))
    start = time.perf_counter()
    captured.value.manifest.buffers()
    listing = 1e3 * (time.perf_counter() - start)
    profiler = cProfile.Profile()
    profiler.enable()
    violations(captured.graph, contract, chain.compiled, buffers)
    profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(15)
    head = [
        f"violations ms: {[round(t, 3) for t in timings]}",
        f"listing buffers ms: {listing:.3f}",
    ]
    return head + [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]
