# SPDX-License-Identifier: Apache-2.0
"""DecodeRuntime on a GPU: the bits of a graph, of a row in every bucket, and beside the CPU."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from graphrt import ChainStep, DecodeRuntime
from graphrt.cache import ReplayCache
from graphrt.kernels.chain import BoundChain
from graphrt.kernels.tuning import lookup
from tests.helpers.gpu_runtimes import (
    DEVICE,
    SHAPE,
    admit,
    captured_chain,
    config,
    draw,
    generator,
)
from tools.gpu.compare import (
    CURSORS,
    check_outputs,
    check_same_bits,
    check_same_caches,
    copy_cache,
)
from tools.gpu.workload import fill_inputs, random_request, random_weights

pytestmark = pytest.mark.gpu


def test_a_graph_gives_the_bits_of_the_eager_chain() -> None:
    chosen = config(slots=32, buckets=(4, 32))
    assert lookup(SHAPE, 4) != lookup(SHAPE, 32)
    with captured_chain(chosen) as (runtime, step):
        slots = admit(runtime, 32)
        clone = ReplayCache(chosen)
        flushes = 0
        for launch in range(24):
            rows, tokens = (slots[:3], slots[2:])[launch % 2], (1, 3)[launch // 2 % 2]
            bucket = 4 if len(rows) <= 4 else 32
            padded = rows + [-1] * (bucket - len(rows))
            slot_ids = torch.tensor(padded, dtype=torch.int32, device=DEVICE)
            buffers = runtime.buffers(bucket, tokens)
            fill_inputs(buffers, generator(launch))
            eager = replace(buffers, out=torch.full_like(buffers.out, torch.nan))
            copy_cache(runtime.cache, clone)
            runtime.launch(rows, tokens=tokens)
            chain = BoundChain(clone, slot_ids, tokens)
            chain.advance()
            step(chain, eager)
            check_same_bits(buffers.out, eager.out, "y")
            assert buffers.out.isfinite().all()
            check_same_caches(runtime.cache, clone)
            flushes += int(clone.cursors.flushed[rows].sum())
            runtime.accept([(launch + row) % (tokens + 1) for row in range(len(rows))])
        assert flushes > 10


def test_a_row_is_the_same_in_every_bucket() -> None:
    rng = random.Random(0)
    alone, company = config(buckets=(1,)), config(slots=32, buckets=(1, 4, 32))
    with captured_chain(alone) as (one, _), captured_chain(company) as (many, _):
        request = random_request(alone, generator(1))
        others = admit(many, 20, seed=2)
        subject, twin = one.admit(request, seed=77), many.admit(request, seed=77)
        for launch in range(24):
            tokens = rng.choice((1, 3))
            count = rng.choice((0, tokens, tokens))
            inputs = draw(alone, 1, tokens, launch)
            expected = one.launch([subject], tokens=tokens, **inputs).out[0]
            one.accept([count])
            rows = rng.sample(others, rng.choice((0, 2, 3, 20)))
            place = rng.randint(0, len(rows))
            rows.insert(place, twin)
            crowd = draw(company, len(rows), tokens, 100 + launch)
            for name, value in inputs.items():
                crowd[name][place] = value[0]
            got = many.launch(rows, tokens=tokens, **crowd).out[place]
            many.accept({slot: count if slot == twin else 1 for slot in rows})
            check_same_bits(got, expected, f"y of launch {launch}")
        check_same_bits(many.cache.state[:, twin], one.cache.state[:, subject], "state")
        for name in CURSORS:
            first, second = (getattr(runtime.cache.cursors, name) for runtime in (one, many))
            assert first[subject] == second[twin], name


def test_the_gpu_decodes_as_the_cpu_does() -> None:
    rng = random.Random(3)
    on_gpu, on_cpu = config(), config(torch.device("cpu"))
    weights = random_weights(on_gpu, generator())
    with DecodeRuntime(on_gpu) as gpu, DecodeRuntime(on_cpu) as cpu:
        gpu.capture(ChainStep(on_gpu, weights))
        moved = [
            replace(w, **{name: getattr(w, name).cpu() for name in type(w).__slots__})
            for w in weights
        ]
        cpu.capture(ChainStep(on_cpu, moved))
        requests = [random_request(on_gpu, generator(seed)) for seed in range(8)]
        slots = [gpu.admit(request, seed=s) for s, request in enumerate(requests)]
        assert slots == [cpu.admit(request, seed=s) for s, request in enumerate(requests)]
        seen = set()
        for launch in range(40):
            rows, tokens = rng.sample(slots, rng.randint(1, 4)), rng.choice((1, 3))
            inputs = draw(on_gpu, len(rows), tokens, launch)
            outs = [r.launch(rows, tokens=tokens, **inputs).out.cpu() for r in (gpu, cpu)]
            check_outputs(*outs, len(rows))
            for name in CURSORS:
                ours, theirs = (getattr(r.cache.cursors, name).cpu() for r in (gpu, cpu))
                check_same_bits(ours, theirs, f"{name} of launch {launch}")
            counts = {slot: rng.randint(0, tokens) for slot in rows}
            gpu.accept(counts)
            cpu.accept(counts)
            seen.add((tokens, int(gpu.cache.cursors.flushed.sum()) > 0))
        assert len(seen) == 4  # either T, with flushes and without
