# SPDX-License-Identifier: Apache-2.0
"""DecodeRuntime on a GPU: what only streams, graphs and device memory can get wrong."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from graphrt import CaptureError, ChainStep, DecodeRuntime
from graphrt.cache import ReplayCache
from graphrt.kernels.advance import _accept_kernel, _advance_kernel
from graphrt.kernels.chain import BoundChain
from graphrt.kernels.conv1d import _conv1d_kernel
from graphrt.kernels.fused import _fused_kernel
from graphrt.kernels.precompute import _precompute_kernel
from graphrt.kernels.single import _single_kernel
from graphrt.kernels.state_update import _state_update_kernel
from tests.helpers.gpu_runtimes import (
    DEVICE,
    WHILE,
    admit,
    captured_chain,
    check_all_same_bits,
    config,
    decode,
    draw,
    generator,
    nothing_changes,
)
from tools.gpu.compare import copy_cache
from tools.gpu.workload import random_weights

pytestmark = pytest.mark.gpu


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
            _fused_kernel,
            _single_kernel,
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
