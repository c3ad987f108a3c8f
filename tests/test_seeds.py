# SPDX-License-Identifier: Apache-2.0
"""Seeds: from the user's to each admission's, and what a runtime draws with them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from graphrt import DecodeRuntime
from graphrt.seeds import slot_seed, split_mix_64
from tests.helpers.cases import random_request
from tests.helpers.checks import check_same_bits
from tests.helpers.rows import BF16, FP16
from tests.helpers.runtimes import (
    CASE,
    admit,
    cached,
    captured,
    copies,
    draw,
    restore,
)
from tests.helpers.stochastic import assert_differ_by_draws

GAMMA = 0x9E3779B97F4A7C15  # what SplitMix64 adds to its state between outputs

# The first outputs of the published generator, by its seed.
KNOWN_ANSWERS = {
    0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC],
    1234567: [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ],
}


@pytest.mark.parametrize("seed", KNOWN_ANSWERS)
def test_split_mix_64_gives_the_published_numbers(seed: int) -> None:
    outputs = KNOWN_ANSWERS[seed]
    got = [split_mix_64((seed + index * GAMMA) % 2**64) for index in range(len(outputs))]
    assert got == outputs


def test_a_slot_seed_is_62_bits_of_two_rounds() -> None:
    assert slot_seed(0, 0) == split_mix_64(0xE220A8397B1DCDAF) >> 2
    assert slot_seed(0, 5) == split_mix_64(0xE220A8397B1DCDAF ^ 5) >> 2
    for user_seed in (0, 1, 2**63 - 1):
        for admission in (0, 1, 2**40):
            assert 0 <= slot_seed(user_seed, admission) < 2**62
            assert slot_seed(user_seed, admission) == slot_seed(user_seed, admission)


def test_neighbouring_seeds_and_admissions_share_no_draws() -> None:
    """A launch counts its slot's seed up by one: seeds must lie further apart than that."""
    users = [*range(30), 2**31, 2**32, 2**62, 2**63 - 1]
    seeds = sorted(slot_seed(user, admission) for user in users for admission in range(1000))
    assert min(after - before for before, after in pairwise(seeds)) > 10**6
    assert seeds[0] < 2**50 and seeds[-1] > 2**62 - 2**50  # all over the range


# --- admission -----------------------------------------------------------------------------------


def admission_seeds(**changes: object) -> list[int]:
    """Admit, release and admit again; return the seeds in the order of admission."""
    seeds = []
    with captured(**changes) as runtime:

        def admit_one() -> int:
            slot = runtime.admit()
            seeds.append(int(runtime.cache.cursors.rand_seed[slot]))
            return slot

        slots = [admit_one() for _ in range(6)]
        for slot in slots[::2]:
            runtime.release(slot)
            assert admit_one() == slot
    return seeds


def test_admission_seeds_are_distinct_and_those_of_the_configuration() -> None:
    seeds = admission_seeds(seed=5)
    assert seeds == [slot_seed(5, admission) for admission in range(9)]
    assert seeds == admission_seeds(seed=5)
    assert len({*seeds, *admission_seeds(), *admission_seeds(seed=6)}) == 27


def test_an_admission_with_its_own_seed_counts_too() -> None:
    with captured(seed=5) as runtime:
        slots = [runtime.admit(seed=seed) for seed in (None, 0, 2**62, None)]
        seeds = runtime.cache.cursors.rand_seed[slots].tolist()
        assert seeds == [slot_seed(5, 0), 0, 2**62, slot_seed(5, 3)]


# --- what is drawn -------------------------------------------------------------------------------


def one_launch_from_a_flush(runtime: DecodeRuntime, slots: list[int]) -> dict[str, Tensor]:
    """Decode until each of ``slots`` will flush at its next launch; return the cache then."""
    for launch in range(2):
        runtime.launch(slots, **draw(len(slots), 3, launch))
        runtime.accept([3] * len(slots))
    assert not runtime.cache.cursors.flushed[slots].any()
    return copies(cached(runtime))


def flush(runtime: DecodeRuntime, slots: list[int]) -> Tensor:
    """Launch ``slots``, each with inputs of its own; return the states that were stored."""
    inputs = draw(6, 3, seed=9)
    runtime.launch(slots, **{name: value[slots] for name, value in inputs.items()})
    assert runtime.cache.cursors.flushed[slots].all()
    return runtime.cache.state.clone()


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=["bf16", "fp16"])
def test_a_restored_seed_repeats_its_draws_whatever_the_batch_around_it(dtype: torch.dtype) -> None:
    case = replace(CASE, state_dtype=dtype, rounding="stochastic")
    with captured(case) as runtime:
        slots = admit(runtime, 4, case)
        saved = one_launch_from_a_flush(runtime, slots)
        first = flush(runtime, slots)
        for rows in (slots, [3, 1, 0, 2], [2, 0, 3]):
            restore(runtime, saved)
            again = flush(runtime, rows)
            check_same_bits(again[:, rows], first[:, rows], f"state, rows {rows}")
        restore(runtime, saved)
        for rows in ([1], [3, 2], [0]):  # in several launches of smaller buckets
            again = flush(runtime, rows)
        check_same_bits(again[:, slots], first[:, slots], "state, other buckets")


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=["bf16", "fp16"])
def test_two_launches_draw_different_numbers(dtype: torch.dtype) -> None:
    case = replace(CASE, state_dtype=dtype, rounding="stochastic")
    with captured(case) as runtime:
        slots = admit(runtime, 3, case)
        saved = one_launch_from_a_flush(runtime, slots)
        first = flush(runtime, slots)
        restore(runtime, saved, "rand_seed")  # which the launch has counted up
        second = flush(runtime, slots)
        for slot in slots:
            assert_differ_by_draws(second[:, slot], first[:, slot], f"slot {slot}, next launch")


def test_two_admissions_draw_different_numbers_unless_their_seeds_are_equal() -> None:
    case = replace(CASE, state_dtype=BF16, rounding="stochastic")
    request = random_request(case, torch.Generator().manual_seed(1))
    with captured(case) as runtime:
        a, b, c, d = (runtime.admit(request, seed=seed) for seed in (None, None, 7, 7))
        state = runtime.cache.state
        assert_differ_by_draws(state[:, a], state[:, b], "two derived seeds, admitted")
        check_same_bits(state[:, c], state[:, d], "one seed twice, admitted")


def test_rounding_to_nearest_draws_nothing() -> None:
    case = replace(CASE, state_dtype=BF16)
    with captured(case) as runtime:
        slots = admit(runtime, 3, case)
        saved = one_launch_from_a_flush(runtime, slots)
        first = flush(runtime, slots)
        restore(runtime, saved, "rand_seed")
        check_same_bits(flush(runtime, slots)[:, slots], first[:, slots], "state")
