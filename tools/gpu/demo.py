# SPDX-License-Identifier: Apache-2.0
"""demo: tokens per second of the model in the package, speculative and one token at a time.

Its prompts one by one, and eight at once; in fp32, for the reason that graphrt/demo.py gives.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

import torch

from graphrt.capture.cuda_graph import CudaGraph
from graphrt.demo_prompts import PROMPTS
from graphrt.errors import DriverError
from graphrt.kernels.pdl import pdl_supported
from graphrt.models.bundled import bundled_model
from graphrt.models.decode import DecodeStats
from graphrt.models.generate import TextGenerator
from tools.gpu.links import check_links, read_graph
from tools.gpu.settings import Settings
from tools.gpu.workload import captured

TOKENS = 6
SLOTS = 8
RUNS = 3


def demo_speed(settings: Settings) -> dict[str, Any]:
    """Continue the demo's prompts at batch 1 and 8, T 6 and 1; the texts must be the same."""
    directory = settings.model or bundled_model()
    prompts = list(PROMPTS.values())
    batches = {1: [[prompt] for prompt in prompts], SLOTS: [(prompts * SLOTS)[:SLOTS]]}
    failures: list[str] = []
    runs = []
    with TextGenerator.from_directory(
        directory,
        device=settings.device,
        dtype=torch.float32,
        slots=SLOTS,
        tokens=TOKENS,
        launch_tokens=(1, TOKENS),
    ) as generator:
        config = generator.runtime.config
        failures += _wrong_links(generator)
        for batch, groups in batches.items():
            texts = {}
            for tokens in (TOKENS, 1):
                texts[tokens], run = _timed(generator, groups, tokens, settings.new_tokens)
                runs.append({"batch": batch, "tokens": tokens} | run)
            if texts[TOKENS] != texts[1]:
                failures.append(f"batch {batch}: T {TOKENS} and T 1 give different texts")
        capture_seconds = generator.runtime.capture_seconds
    return {
        "failures": failures,
        "model": directory.name,
        "dtype": "float32",
        "layers": config.layers,
        "window": config.window,
        "prompts": len(prompts),
        "new_tokens": settings.new_tokens,
        "capture_seconds": capture_seconds,
        "runs": runs,
    }


def _timed(
    generator: TextGenerator, groups: Iterable[list[str]], tokens: int, new_tokens: int
) -> tuple[list[tuple[int, ...]], dict[str, float]]:
    """Decode every group of prompts, several times; return the tokens and the median speeds.

    The first time is not counted: it loads what PyTorch needs to prefill prompts so long.
    """
    speeds: list[float] = []
    decode_speeds: list[float] = []
    for _ in range(1 + RUNS):
        results = [generator.generate(group, new_tokens, tokens=tokens) for group in groups]
        total = _sum(stats for _, stats in results)
        speeds.append(total.tokens_per_second)
        decode_speeds.append(total.launched_tokens / (total.seconds - total.prefill_seconds))
    texts = [done.token_ids for completions, _ in results for done in completions]
    return texts, {
        "tokens_per_second": statistics.median(speeds[1:]),
        "decode_tokens_per_second": statistics.median(decode_speeds[1:]),
        "tokens_per_launch": total.tokens_per_launch,
        "launches": total.launches,
    }


def _sum(every: Iterable[DecodeStats]) -> DecodeStats:
    total = DecodeStats()
    for stats in every:
        total.new_tokens += stats.new_tokens
        total.launched_tokens += stats.launched_tokens
        total.launches += stats.launches
        total.row_launches += stats.row_launches
        total.prefill_seconds += stats.prefill_seconds
        total.seconds += stats.seconds
    return total


def _wrong_links(generator: TextGenerator) -> list[str]:
    """Return what is wrong with the chain's links inside the graphs of the whole model."""
    config = generator.runtime.config
    linked = pdl_supported(config.device)
    failures = []
    for graph in captured(generator.runtime):
        if not isinstance(graph.graph, CudaGraph):
            continue
        try:
            names, edges = read_graph(graph.graph)
            found = check_links(
                names, edges, graph.value.chain.stages, config.layers, linked=linked
            )
        except DriverError as error:  # what others put into the graph may not be readable
            found = [str(error)]
        failures += [f"model, bucket {graph.bucket}: {failure}" for failure in found]
    return failures
