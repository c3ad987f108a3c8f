# SPDX-License-Identifier: Apache-2.0
"""A small DecodeRuntime on the CPU with the chain captured, and proof that nothing changed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from graphrt import ChainStep, DecodeRuntime, RuntimeConfig
from graphrt.cache import ReplayCache
from graphrt.capture.buffers import named_tensors
from graphrt.kernels.tensors import LayerInputs
from tests.helpers.cases import BASE, Case, random_request
from tests.helpers.checks import check_same_bits
from tests.helpers.contents import CACHES, CURSORS, FLOAT_SCRATCH, WILD, poison_slot

CASE = replace(BASE, layers=2, slots=6)

Accept: TypeAlias = Callable[[DecodeRuntime, list[int], list[int]], None]


def chain_step(case: Case, config: RuntimeConfig, seed: int = 0) -> ChainStep:
    """Return the chain with random weights, gated as the case is."""
    drawn = torch.Generator().manual_seed(seed)
    weights = [case.weights(drawn) for _ in range(case.layers)]
    return ChainStep(config, weights, gated=case.has_z)


@contextmanager
def captured(case: Case = CASE, **changes: Any) -> Iterator[DecodeRuntime]:
    """Give a runtime whose slots are poisoned and whose chain is captured."""
    config = replace(case.config("cpu"), **changes)
    with DecodeRuntime(config) as runtime:
        for slot in range(config.slots):
            poison_slot(runtime.cache, slot)
        runtime.capture(chain_step(case, config))
        yield runtime


def admit(runtime: DecodeRuntime, count: int, case: Case = CASE) -> list[int]:
    """Admit ``count`` random requests; return their slots."""
    drawn = torch.Generator().manual_seed(1)
    return [runtime.admit(random_request(case, drawn)) for _ in range(count)]


def draw(rows: int, tokens: int, seed: int = 0, case: Case = CASE) -> dict[str, Tensor]:
    """Return the inputs of a launch by name, as ChainStep's buffers hold them."""
    drawn = torch.Generator().manual_seed(seed)
    return stacked([case.inputs([True] * rows, tokens, drawn) for _ in range(case.layers)])


def stacked(layers: list[LayerInputs]) -> dict[str, Tensor]:
    """Return the inputs of all layers as ChainStep's buffers hold them."""
    named = {name: [getattr(inputs, name) for inputs in layers] for name in ("xbc", "dt", "z")}
    return {
        name: torch.stack(parts, dim=1) for name, parts in named.items() if parts[0] is not None
    }


def decode(
    runtime: DecodeRuntime,
    rows: list[int],
    launches: int,
    accept: Accept = lambda runtime, rows, counts: runtime.accept(counts),
) -> list[Tensor]:
    """Launch ``rows`` with the largest T and accept random counts; return what came out."""
    rng = random.Random(0)
    outs = []
    for launch in range(launches):
        inputs = draw(len(rows), runtime.config.tokens, launch)
        outs.append(runtime.launch(rows, **inputs).out[: len(rows)].clone())
        accept(runtime, rows, [rng.randint(0, runtime.config.tokens) for _ in rows])
    return outs


def check_all_same_bits(got: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    """Require every launch to have given the same finite y."""
    for launch, (one, other) in enumerate(zip(got, expected, strict=True)):
        assert one.isfinite().all()
        check_same_bits(one, other, f"y of launch {launch}")


def cached(runtime: DecodeRuntime) -> dict[str, Tensor]:
    """Return every tensor of the cache that outlives a launch, by name."""
    tensors = {name: getattr(runtime.cache, name) for name in CACHES}
    cursors = runtime.cache.cursors
    return tensors | {name: getattr(cursors, name) for name in (*CURSORS, "clamped")}


def restore(runtime: DecodeRuntime, saved: dict[str, Tensor], *but: str) -> None:
    """Copy ``saved`` back, all ``but`` the tensors named."""
    for name, tensor in cached(runtime).items():
        if name not in but:
            tensor.copy_(saved[name])


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of every tensor, by the same names."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def static_tensors(runtime: DecodeRuntime) -> dict[str, Tensor]:
    """Return the tensors of all static buffers, by bucket, T and name."""
    config = runtime.config
    return {
        f"{name} of bucket {bucket}, T {tokens}": tensor
        for bucket in config.buckets
        for tokens in config.launch_tokens
        for name, tensor in named_tensors(runtime.buffers(bucket, tokens)).items()
    }


@contextmanager
def nothing_written(runtime: DecodeRuntime, *but: str) -> Iterator[None]:
    """Require every bit of the caches, the cursors and the static buffers to stay, ``but`` some."""
    watched = {**cached(runtime), **static_tensors(runtime)}
    before = copies(watched)
    yield
    for name in before.keys() - set(but):
        check_same_bits(watched[name], before[name], name)


def poison_scratch(cache: ReplayCache) -> None:
    """Put NaN in all scratch, and slots that are not there in its rows."""
    scratch = cache.scratch(cache.config.buckets[-1], cache.config.tokens)
    for name in FLOAT_SCRATCH:
        getattr(scratch, name).fill_(math.nan)
    scratch.row_cursors.fill_(WILD)
