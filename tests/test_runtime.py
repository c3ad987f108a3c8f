# SPDX-License-Identifier: Apache-2.0
"""DecodeRuntime's launches on the CPU: right rows, right T, right values, always in place."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from graphrt import DecodeRuntime
from graphrt.cache import ReplayCache
from graphrt.kernels.chain import BoundChain
from tests.helpers.cases import Case, random_request
from tests.helpers.checks import Mismatch, check_same_bits, check_zeros
from tests.helpers.contents import CACHES, CURSORS, poison_slot
from tests.helpers.drive_runtime import WAYS, RuntimeDriver
from tests.helpers.oracle import Perturbation
from tests.helpers.rows import BF16, FP16
from tests.helpers.runtimes import (
    CASE,
    admit,
    cached,
    captured,
    chain_step,
    draw,
)

ORACLE_CASES = {
    "fp32": CASE,
    "bf16": replace(CASE, layers=1, activation_dtype=BF16),
    "state_fp16_stochastic": replace(
        CASE, layers=1, state_dtype=FP16, rounding="stochastic", has_z=False
    ),
    "window_is_tokens": replace(CASE, layers=1, window=3, slots=5, launch_tokens=(1, 2, 3)),
    "one_bucket_for_all": replace(CASE, layers=1, slots=4, buckets=(4,), seed=1),
}


@pytest.mark.parametrize("case", ORACLE_CASES.values(), ids=ORACLE_CASES)
def test_random_launches_match_the_oracle(case: Case) -> None:
    driver = RuntimeDriver(case)
    driver.run(300)
    count = driver.count
    assert count["launches"] == 300
    for pair in [(bucket, tokens) for bucket in case.buckets for tokens in case.launch_tokens]:
        assert count[pair] >= 10, count
    for what in ("flushes", "wraps", "padding", "recycled", "prefilled", "clamped", *WAYS):
        assert count[what] >= 10, count
    assert 0 < driver.worst <= driver.limit


@pytest.mark.parametrize("perturbation", Perturbation, ids=lambda p: p.name.lower())
def test_a_perturbed_reference_is_refused(perturbation: Perturbation) -> None:
    driver = RuntimeDriver(CASE, perturbation, perturb_from=20)
    with pytest.raises(Mismatch, match=r"^(y|state) of "):
        driver.run(60)
    assert driver.oracles[0].perturbed
    assert driver.count["launches"] >= 20


def test_a_launch_is_the_chain_called_directly() -> None:
    case = replace(CASE, state_dtype=BF16, rounding="stochastic")
    rng = random.Random(0)
    with captured(case) as runtime:
        step = chain_step(case, runtime.config)
        slots = admit(runtime, 5, case)
        clone = ReplayCache(runtime.config)
        flushes = 0
        for launch in range(60):
            rows = rng.sample(slots, rng.randint(1, 4))
            bucket, tokens = {1: 1, 2: 2}.get(len(rows), 4), rng.choice((1, 3))
            for name, tensor in _tensors(clone).items():
                tensor.copy_(cached(runtime)[name])
            out = runtime.launch(rows, tokens=tokens, **draw(len(rows), tokens, launch)).out

            buffers = runtime.buffers(bucket, tokens)
            direct = replace(buffers, out=torch.full_like(out, math.nan))
            slot_ids = torch.tensor(rows + [-1] * (bucket - len(rows)), dtype=torch.int32)
            chain = BoundChain(clone, slot_ids, tokens)
            chain.advance()
            step(chain, direct)
            check_same_bits(out, direct.out, f"y of launch {launch}")
            for name, tensor in _tensors(clone).items():
                check_same_bits(cached(runtime)[name], tensor, f"{name} of launch {launch}")
            flushes += int(clone.cursors.flushed[rows].sum())
            runtime.accept([rng.randint(0, tokens) for _ in rows])
        assert flushes > 10


def _tensors(cache: ReplayCache) -> dict[str, Tensor]:
    cursors = {name: getattr(cache.cursors, name) for name in (*CURSORS, "clamped")}
    return {name: getattr(cache, name) for name in CACHES} | cursors


def test_a_released_slot_never_reaches_the_next_request() -> None:
    """The second request of a slot decodes as the first one of a fresh runtime does."""
    request = random_request(CASE, torch.Generator().manual_seed(5))
    outs = []
    with captured() as used, captured() as fresh:
        (slot,) = admit(used, 1)
        for launch in range(7):  # with flushes, and a ring that has turned
            used.launch([slot], **draw(1, 3, 100 + launch))
            used.accept({slot: 3})
        used.release(slot)
        poison_slot(used.cache, slot)
        for runtime in (used, fresh):
            assert runtime.admit(request, seed=3) == slot
            for launch in range(10):
                outs.append(runtime.launch([slot], **draw(1, 3, launch)).out.clone())
                runtime.accept({slot: launch % 4})
    assert all(out.isfinite().all() for out in outs)
    for launch in range(10):
        check_same_bits(outs[launch], outs[10 + launch], f"y of launch {launch}")


# --- which rows are launched ---------------------------------------------------------------------


class Alone:
    """What each slot gives for the same inputs. Nothing is accepted, so that is always the same."""

    def __init__(self, runtime: DecodeRuntime, slots: list[int]) -> None:
        self.runtime = runtime
        self.y = {}
        for tokens in (1, 3):
            inputs = draw(1, tokens)
            for slot in slots:
                launched = runtime.launch([slot], tokens=tokens, **inputs).out
                self.y[slot, tokens] = launched[0].clone()

    def check(self, rows: list[int] | tuple[int, ...], tokens: int | None = None) -> None:
        """Launch ``rows``; require each row to be its slot's, and no other slot to be touched."""
        runtime, expected = self.runtime, list(rows)
        seeds = runtime.cache.cursors.rand_seed.clone()
        seeds[expected] += 1
        inputs = draw(1, tokens or 3)
        repeated = {name: value.repeat_interleave(len(rows), 0) for name, value in inputs.items()}
        out = runtime.launch(rows, tokens=tokens, **repeated).out
        for row, slot in enumerate(expected):
            check_same_bits(out[row], self.y[slot, tokens or 3], f"row {row} of {expected}")
        check_zeros(out[len(expected) :], "padding")
        check_same_bits(runtime.cache.cursors.rand_seed, seeds, "rand_seed")
        assert runtime.cache.cursors.last_tokens[expected].eq(tokens or 3).all()


def test_the_rows_are_those_of_each_call() -> None:
    with captured() as runtime:
        a, b, c, d = admit(runtime, 4)
        alone = Alone(runtime, [a, b, c, d])
        same = [a, b]
        alone.check(same)
        alone.check(same)  # the same object again
        alone.check([a, b])  # an equal list
        alone.check((a, b))  # a tuple
        same[1] = c
        alone.check(same)  # the same object with other rows
        same.reverse()
        alone.check(same)
        same.append(d)
        alone.check(same)  # of another bucket
        same.pop()
        alone.check(same)  # back in the first, where rows were written before
        alone.check(same, tokens=1)  # of another T
        alone.check(same, tokens=3)
        alone.check(same)
        alone.check([d, c], tokens=1)
        alone.check([d, c])  # written for the other T
        alone.check([d])
        alone.check([d, c])


def test_a_slot_of_the_last_launch_is_another_request_after_admission() -> None:
    with captured() as runtime:
        rows = admit(runtime, 2)
        runtime.launch(rows)
        runtime.release(rows[1])
        assert runtime.admit() == rows[1]
        Alone(runtime, rows).check(rows)
        runtime.accept([1, 2])
        runtime.launch(rows)
        assert runtime.cache.cursors.held[rows].tolist() == [1, 2]


def test_the_bucket_is_the_smallest_that_holds_the_rows() -> None:
    with captured() as runtime:
        slots = admit(runtime, 4)
        for count, bucket in [(1, 1), (2, 2), (3, 4), (4, 4), (1, 1)]:
            for tokens in (1, 3):
                launched = runtime.launch(slots[:count], tokens=tokens)
                assert launched is runtime.buffers(bucket, tokens)
                assert launched.out.shape[:3] == (bucket, 2, tokens)
            assert runtime.launch(slots[:count]) is runtime.buffers(bucket)


def test_only_what_is_given_is_filled_in() -> None:
    with captured() as runtime:
        slots = admit(runtime, 4)
        runtime.launch(slots, **draw(4, 3, seed=1))
        inputs = draw(3, 3, seed=2)
        buffers = runtime.launch(slots[:3], xbc=inputs["xbc"])
        before = draw(4, 3, seed=1)
        check_same_bits(buffers.xbc[:3], inputs["xbc"], "xbc")
        check_same_bits(buffers.xbc[3], before["xbc"][3], "xbc of a padding row")
        check_same_bits(buffers.dt, before["dt"], "dt")
        check_same_bits(buffers.z, before["z"], "z")
        check_zeros(buffers.out[3], "y of a padding row")
