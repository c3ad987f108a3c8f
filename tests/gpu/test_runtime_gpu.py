# SPDX-License-Identifier: Apache-2.0
"""DecodeRuntime on a GPU: what only streams, graphs and device memory can get wrong."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from graphrt import AcceptError, CaptureError, ChainShape, ChainStep, DecodeRuntime, RuntimeConfig
from graphrt.cache import ReplayCache
from graphrt.kernels.advance import _accept_kernel, _advance_kernel
from graphrt.kernels.chain import BoundChain
from graphrt.kernels.conv1d import _conv1d_kernel
from graphrt.kernels.precompute import _precompute_kernel
from graphrt.kernels.state_update import _state_update_kernel
from graphrt.kernels.tuning import lookup
from tools.gpu.compare import (
    CURSORS,
    check_outputs,
    check_same_bits,
    check_same_caches,
    copy_cache,
)
from tools.gpu.workload import fill_inputs, random_request, random_weights

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda", 0)
SHAPE = ChainShape(heads=4, head_dim=16, state_dim=16, groups=2)
WHILE = 200_000_000  # cycles that the device is kept busy with, about a tenth of a second


def config(device: torch.device = DEVICE, **changes: Any) -> RuntimeConfig:
    sizes: dict[str, Any] = {
        "layers": 2,
        "slots": 8,
        "tokens": 3,
        "window": 8,
        "buckets": (4,),
        "launch_tokens": (1, 3),
        "state_dtype": torch.bfloat16,
        "rounding": "stochastic",
    }
    return RuntimeConfig(shape=SHAPE, device=device, **sizes | changes)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(seed)


@contextmanager
def captured_chain(
    chosen: RuntimeConfig, seed: int = 0
) -> Iterator[tuple[DecodeRuntime, ChainStep]]:
    step = ChainStep(chosen, random_weights(chosen, generator(seed)))
    with DecodeRuntime(chosen) as runtime:
        runtime.capture(step)
        yield runtime, step


def admit(runtime: DecodeRuntime, count: int, seed: int = 0) -> list[int]:
    drawn = generator(seed)
    return [runtime.admit(random_request(runtime.config, drawn), seed=s) for s in range(count)]


def draw(chosen: RuntimeConfig, rows: int, tokens: int, seed: int) -> dict[str, Tensor]:
    """Return inputs of a launch, in host memory."""
    drawn = torch.Generator().manual_seed(seed)
    dims = (rows, chosen.layers, tokens)
    return {
        "xbc": torch.randn(*dims, SHAPE.conv_dim, generator=drawn),
        "dt": torch.randn(*dims, SHAPE.heads, generator=drawn),
    }


def decode(runtime: DecodeRuntime, rows: list[int], launches: int, seed: int = 0) -> list[Tensor]:
    """Launch ``rows`` with T 3 and accept random counts; return what came out."""
    rng = random.Random(seed)
    outs = []
    for launch in range(launches):
        inputs = draw(runtime.config, len(rows), 3, 1000 * seed + launch)
        outs.append(runtime.launch(rows, **inputs).out[: len(rows)].clone())
        runtime.accept([rng.randint(0, 3) for _ in rows])
    return outs


def check_all_same_bits(got: list[Tensor], expected: list[Tensor]) -> None:
    for launch, (one, other) in enumerate(zip(got, expected, strict=True)):
        assert one.isfinite().all()
        check_same_bits(one, other, f"y of launch {launch}")


@contextmanager
def nothing_changes(runtime: DecodeRuntime, rows: list[int]) -> Iterator[None]:
    """Require that ``rows`` decode after the block as they would have before it."""
    saved = ReplayCache(runtime.config)
    copy_cache(runtime.cache, saved)
    before = decode(runtime, rows, 5)
    yield
    copy_cache(saved, runtime.cache)
    check_all_same_bits(decode(runtime, rows, 5), before)


# --- bits ----------------------------------------------------------------------------------------


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


# --- accepting -----------------------------------------------------------------------------------


@triton.jit
def _write_counts(accepted_ptr, slots_ptr, counts_ptr, ROWS: tl.constexpr):
    for row in tl.static_range(ROWS):
        tl.store(accepted_ptr + tl.load(slots_ptr + row), tl.load(counts_ptr + row))


def by_list(runtime: DecodeRuntime, rows: list[int], counts: list[int]) -> None:
    runtime.accept(counts)


def by_mapping(runtime: DecodeRuntime, rows: list[int], counts: list[int]) -> None:
    runtime.accept(dict(reversed(list(zip(rows, counts, strict=True)))))


def by_tensor(runtime: DecodeRuntime, rows: list[int], counts: list[int]) -> None:
    runtime.accept(torch.tensor(counts, dtype=torch.int32).to(DEVICE, non_blocking=True))


def by_whole_bucket(runtime: DecodeRuntime, rows: list[int], counts: list[int]) -> None:
    runtime.accept(torch.tensor([*counts, 99], dtype=torch.int32, device=DEVICE))


def by_own_kernel(runtime: DecodeRuntime, rows: list[int], counts: list[int]) -> None:
    on_device = torch.tensor([rows, counts], dtype=torch.int32).to(DEVICE, non_blocking=True)
    _write_counts[(1,)](runtime.accepted, on_device[0], on_device[1], ROWS=3)


WAYS = [by_list, by_mapping, by_tensor, by_whole_bucket, by_own_kernel]


def test_every_way_to_accept_is_the_same() -> None:
    results = {}
    with captured_chain(config(slots=3 * len(WAYS))) as (runtime, _):
        for way in WAYS:
            rng = random.Random(1)
            rows = admit(runtime, 3)
            outs = []
            for launch in range(12):
                torch.cuda._sleep(WHILE // 100)  # the host runs ahead: all is in stream order
                inputs = draw(runtime.config, 3, 3, launch)
                outs.append(runtime.launch(rows, **inputs).out.clone())
                way(runtime, rows, [rng.randint(0, 3) for _ in rows])
            runtime.launch(rows)
            cursors = [getattr(runtime.cache.cursors, name)[rows] for name in CURSORS]
            results[way] = (outs, cursors)
    outs, cursors = results[by_list]
    assert cursors[0].max() > 0
    for way in WAYS:
        check_all_same_bits(results[way][0], outs)
        for got, expected in zip(results[way][1], cursors, strict=True):
            check_same_bits(got, expected, way.__name__)


def test_what_is_not_accepted_is_not_committed() -> None:
    with captured_chain(config()) as (runtime, _):
        rows = admit(runtime, 2)
        inputs = draw(runtime.config, 2, 3, 0)
        first = runtime.launch(rows, **inputs).out.clone()
        for tokens in (3, 1, 3):
            runtime.launch(rows, tokens=tokens)
        check_same_bits(runtime.launch(rows, **inputs).out, first, "y")
        assert runtime.cache.cursors.held[rows].tolist() == [0, 0]
        runtime.accept([2, 0])
        runtime.launch(rows)
        assert runtime.cache.cursors.held[rows].tolist() == [2, 0]


def test_a_clamped_count_is_reported_and_nothing_waits_for_it() -> None:
    with captured_chain(config()) as (runtime, _):
        rows = admit(runtime, 2)
        runtime.launch(rows)
        torch.cuda.synchronize()
        torch.cuda._sleep(WHILE)
        runtime.accepted[rows[0]].fill_(9)
        runtime.launch(rows)
        runtime.accept([1, 1])
        runtime.launch(list(reversed(rows)))
        assert not torch.cuda.current_stream().query(), "a call waited for the device"
        torch.cuda.synchronize()
        with pytest.raises(AcceptError, match=rf"accepted={{{rows[0]}: 9}}"):
            runtime.launch(rows)
        runtime.launch(rows)
        # Clamped to T 3, then 1 more.
        assert runtime.cache.cursors.held[rows].tolist() == [4, 1]


# --- streams, graphs, memory ---------------------------------------------------------------------


def test_a_launch_on_another_stream_is_in_its_order() -> None:
    with captured_chain(config(launch_tokens=(3,))) as (runtime, _):
        rows = admit(runtime, 4)
        saved = ReplayCache(runtime.config)
        copy_cache(runtime.cache, saved)
        expected = decode(runtime, rows, 6, seed=5)
        copy_cache(saved, runtime.cache)
        runtime.launch(rows[:2])  # so that the rows, too, must be written on the other stream
        copy_cache(saved, runtime.cache)
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(WHILE)
            got = decode(runtime, rows, 6, seed=5)
            torch.cuda.current_stream().synchronize()
        check_all_same_bits(got, expected)


class Failing(ChainStep):
    """A step that fails for its last graph, when it warms up or while it is captured."""

    fails: Callable[[], object] = staticmethod(lambda: None)
    in_capture = False

    def __call__(self, chain: BoundChain, buffers: Any) -> None:
        super().__call__(chain, buffers)
        captures = torch.cuda.is_current_stream_capturing()
        if chain.tokens == 1 and captures == self.in_capture:
            self.fails()


def broken() -> None:
    raise ValueError("broken step")


@pytest.mark.parametrize(
    ("fails", "in_capture", "cause"),
    [
        (broken, False, "ValueError: broken step"),
        (broken, True, "ValueError: broken step"),
        (torch.cuda.synchronize, True, "operation not permitted"),
    ],
)
def test_a_failing_step_leaves_the_runtime_as_it_was(
    fails: Callable[[], object], in_capture: bool, cause: str
) -> None:
    chosen = config()
    step = Failing(chosen, random_weights(chosen, generator()))
    with captured_chain(chosen) as (runtime, _):
        rows = admit(runtime, 4)
        with nothing_changes(runtime, rows):
            step.fails, step.in_capture = fails, in_capture
            for _ in range(2):
                with pytest.raises(CaptureError, match=cause):
                    runtime.capture(step)
        step.fails = lambda: None
        with nothing_changes(runtime, rows):  # the same weights, captured anew
            runtime.capture(step)


def test_graphs_keep_what_they_point_at() -> None:
    chosen = config(launch_tokens=(3,))
    weights = random_weights(chosen, generator())
    tensors = [getattr(weights[0], name) for name in type(weights[0]).__slots__]
    watched = [weakref.ref(tensor) for tensor in tensors]
    sizes = [(tensor.shape, tensor.dtype) for tensor in tensors]
    step = ChainStep(chosen, weights)
    runtime = DecodeRuntime(chosen)
    runtime.capture(step)
    rows = admit(runtime, 4)
    with nothing_changes(runtime, rows):
        del weights, tensors, step
        # A kernel whose last reference dies may be unloaded.
        for kernel in (
            _advance_kernel,
            _accept_kernel,
            _conv1d_kernel,
            _precompute_kernel,
            _state_update_kernel,
        ):
            kernel.device_caches.clear()
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        over = [
            torch.full(shape, torch.nan, dtype=dtype, device=DEVICE) for shape, dtype in sizes * 50
        ]
        torch.cuda.synchronize()
    assert all(reference() is not None for reference in watched)
    del over
    runtime.close()
    gc.collect()
    assert all(reference() is None for reference in watched)


def test_two_runtimes_do_not_know_each_other() -> None:
    configs = [config(launch_tokens=(3,)), config(layers=3, slots=4, window=5)]
    apart = []
    for seed, chosen in enumerate(configs):
        with captured_chain(chosen, seed) as (runtime, _):
            apart.append(decode(runtime, admit(runtime, 3, seed), 10, seed))
    with (
        captured_chain(configs[0], 0) as (first, _),
        captured_chain(configs[1], 1) as (second, _),
    ):
        runtimes = (first, second)
        rows = [admit(runtime, 3, seed) for seed, runtime in enumerate(runtimes)]
        rngs = [random.Random(0), random.Random(1)]
        together: list[list[Tensor]] = [[], []]
        for launch in range(10):
            for seed, runtime in enumerate(runtimes):
                inputs = draw(runtime.config, 3, 3, 1000 * seed + launch)
                together[seed].append(runtime.launch(rows[seed], **inputs).out[:3].clone())
                runtime.accept([rngs[seed].randint(0, 3) for _ in range(3)])
    for got, expected in zip(together, apart, strict=True):
        check_all_same_bits(got, expected)


def test_a_closed_runtime_refuses_and_closes_again() -> None:
    with captured_chain(config(launch_tokens=(3,))) as (runtime, step):
        rows = admit(runtime, 2)
        torch.cuda._sleep(WHILE)
        runtime.launch(rows)
        runtime.close()  # waits for the launch in flight
        assert torch.cuda.current_stream().query()
        for call in (lambda: runtime.launch(rows), lambda: runtime.capture(step)):
            with pytest.raises(CaptureError, match="closed"):
                call()
        runtime.close()
        assert runtime.cache.cursors.last_tokens[rows].tolist() == [3, 3]
