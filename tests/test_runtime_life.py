# SPDX-License-Identifier: Apache-2.0
"""DecodeRuntime's memory and its end, on the CPU."""

from __future__ import annotations

import contextlib
import gc
import random
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from graphrt import (
    CaptureError,
    DecodeRuntime,
    GraphrtError,
    MemoryPlanError,
)
from tests.helpers.cases import BASE
from tests.helpers.checks import check_same_bits
from tests.helpers.contents import CACHES, CURSORS
from tests.helpers.runtimes import (
    CASE,
    admit,
    cached,
    captured,
    chain_step,
    copies,
    decode,
    draw,
    static_tensors,
)

# --- memory --------------------------------------------------------------------------------------


def test_no_tensor_is_allocated_again() -> None:
    rng = random.Random(0)
    with captured() as runtime:
        slots = admit(runtime, 5)

        def places() -> dict[str, int]:
            tensors = {**cached(runtime), **static_tensors(runtime), "accept": runtime.accepted}
            return {name: tensor.data_ptr() for name, tensor in tensors.items()}

        before = places()
        assert len(before) == len(CACHES) + len(CURSORS) + 1 + 6 * 4 + 1
        for launch in range(100):
            rows, tokens = rng.sample(slots, rng.randint(1, 4)), rng.choice((1, 3))
            runtime.launch(rows, tokens=tokens, **draw(len(rows), tokens, launch))
            runtime.accept([rng.randint(0, tokens) for _ in rows])
            if launch % 10 == 0:
                slots.remove(rows[0])
                runtime.release(rows[0])
                slots += admit(runtime, 1)
        assert places() == before


def test_the_cache_is_what_was_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    case, made, zeros = replace(BASE, layers=2), [], torch.zeros

    def counted(*args: object, **kwargs: object) -> Tensor:
        made.append(zeros(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(torch, "zeros", counted)
    config = case.config("cpu")
    with DecodeRuntime(config) as runtime:
        plan, cache = config.memory(), runtime.cache
    assert sum(tensor.untyped_storage().nbytes() for tensor in made) == plan.total_bytes
    assert cache.nbytes() == {tensor.name: tensor.nbytes for tensor in plan.tensors}
    scratch = cache.scratch(config.buckets[-1], config.tokens)
    for planned in plan.tensors:
        owner = next(o for o in (cache, cache.cursors, scratch) if hasattr(o, planned.name))
        tensor = getattr(owner, planned.name)
        assert (tuple(tensor.shape), tensor.dtype) == (planned.shape, planned.dtype), planned.name
        assert tensor.nbytes == planned.nbytes == tensor.untyped_storage().nbytes(), planned.name
        assert any(tensor.data_ptr() == one.data_ptr() for one in made)


def test_what_does_not_fit_is_refused_and_nothing_is_allocated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = CASE.config("cpu")
    total = config.memory().total_bytes
    monkeypatch.setattr("graphrt.cache.free_bytes", lambda device: total - 1)
    monkeypatch.setattr(torch, "zeros", None)
    with pytest.raises(MemoryPlanError, match="the largest tensor is state"):
        DecodeRuntime(config)
    monkeypatch.undo()
    monkeypatch.setattr("graphrt.cache.free_bytes", lambda device: total)
    DecodeRuntime(config).close()


# --- the end -------------------------------------------------------------------------------------


def test_closing_again_does_nothing_and_the_caches_stay_readable() -> None:
    with captured() as runtime:
        rows = admit(runtime, 3)
        decode(runtime, rows, 3)
        before = copies(cached(runtime))
        runtime.close()
        runtime.close()
        for name, tensor in cached(runtime).items():
            check_same_bits(tensor, before[name], name)
    runtime.close()


def test_leaving_the_block_closes_and_lets_go_of_the_buffers() -> None:
    for error in (None, KeyboardInterrupt):
        with contextlib.suppress(KeyboardInterrupt), captured() as runtime:
            rows = admit(runtime, 1)
            runtime.launch(rows)
            static = weakref.ref(runtime.buffers(1).out)
            if error is not None:
                raise error
        gc.collect()
        assert static() is None
        with pytest.raises(CaptureError, match="closed"):
            runtime.launch(rows)


CALLS: dict[str, Callable[[DecodeRuntime, int], object]] = {
    "launch": lambda runtime, slot: runtime.launch([slot]),
    "launch_as_before": lambda runtime, slot: runtime.launch([slot, slot + 1]),
    "capture": lambda runtime, slot: runtime.capture(chain_step(CASE, runtime.config)),
    "buffers": lambda runtime, slot: runtime.buffers(1),
    "accept": lambda runtime, slot: runtime.accept({slot: 1}),
    "accept_by_row": lambda runtime, slot: runtime.accept([1, 1]),
    "accept_tensor": lambda runtime, slot: runtime.accept(torch.ones(2, dtype=torch.int32)),
    "admit": lambda runtime, slot: runtime.admit(),
    "release": lambda runtime, slot: runtime.release(slot),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_closed_runtime_refuses(call: Callable[[DecodeRuntime, int], object]) -> None:
    with captured() as runtime:
        slot, _ = admit(runtime, 2)
        runtime.launch([slot, slot + 1])
        runtime.close()
        before = copies(cached(runtime))
        with pytest.raises(GraphrtError, match=r"^[a-z ]+=closed: .*; .*\bnew\b"):
            call(runtime, slot)
        for name, tensor in cached(runtime).items():
            check_same_bits(tensor, before[name], name)
