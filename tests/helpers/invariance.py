# SPDX-License-Identifier: Apache-2.0
"""One request decoded twice, alone and in company: every bit of it must be the same."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from graphrt.cache import ReplayCache
from graphrt.kernels.chain import BoundChain
from graphrt.kernels.tensors import LayerInputs, LayerWeights
from tests.helpers.cases import Case, random_request
from tests.helpers.checks import check_same_bits
from tests.helpers.contents import CACHES, CURSORS
from tests.helpers.tensors import place_inputs, place_weights

SUBJECT_SEED = 0x1234_5678_9ABC


class World:
    """One cache, in which the subject has ``slot`` and every other slot a request of its own."""

    def __init__(self, case: Case, device: torch.device | str, slot: int, seed: int) -> None:
        self.case, self.slot = case, slot
        self.cache = ReplayCache(case.config(device))
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        for name in CACHES:
            getattr(self.cache, name).fill_(math.nan)
        for other in range(case.slots):
            if other != slot:
                self.cache.admit(other, random_request(case, self.generator), other)

    def launch(
        self,
        bucket: int,
        subject: LayerInputs,  # one row
        weights: LayerWeights,
        count: int,
    ) -> Tensor:
        """Launch the subject at a random position among others and padding; return its y."""
        case, device = self.case, self.cache.config.device
        tokens = subject.dt.shape[1]
        others = [other for other in range(case.slots) if other != self.slot]
        live = self.rng.randint(0, min(bucket - 1, len(others)))
        slots = self.rng.sample(others, live) + [-1] * (bucket - 1 - live)
        self.rng.shuffle(slots)
        position = self.rng.randint(0, bucket - 1)
        slots.insert(position, self.slot)

        inputs = case.inputs([slot >= 0 for slot in slots], tokens, self.generator)
        inputs.xbc[position] = subject.xbc[0]
        inputs.dt[position] = subject.dt[0]
        if inputs.z is not None and subject.z is not None:
            inputs.z[position] = subject.z[0]
        slot_ids = torch.tensor(slots, dtype=torch.int32, device=device)
        chain = BoundChain(self.cache, slot_ids, tokens)
        out = case.empty_out(bucket, tokens, device)
        chain.advance()
        chain.layer(0, place_inputs(inputs, device), weights, out)
        counts = [self.rng.randint(0, tokens) for _ in slots]
        counts[position] = count
        chain.accept(torch.tensor(counts, dtype=torch.int32, device=device))
        return out[position]


def check_alone_and_in_company(
    case: Case, device: torch.device | str, buckets: list[int], launches: int
) -> None:
    """Decode one request in bucket ``buckets[0]`` alone and in each other bucket with neighbours.

    It has another slot in each, and another position in each launch. Outputs, caches and cursors
    are compared bit for bit after every launch.
    """
    generator = torch.Generator().manual_seed(case.seed)
    rng = random.Random(case.seed)
    weights = place_weights(case.weights(generator), device)
    subject = random_request(case, generator)
    worlds = [
        (bucket, World(case, device, slot=(3 * i) % case.slots, seed=100 + i))
        for i, bucket in enumerate(buckets)
    ]
    for _, world in worlds:
        world.cache.admit(world.slot, subject, SUBJECT_SEED)
    flushes = 0
    for launch in range(launches):
        tokens = rng.choice(case.launch_tokens)
        inputs = case.inputs([True], tokens, generator)
        count = rng.randint(0, tokens)
        outs = [world.launch(bucket, inputs, weights, count) for bucket, world in worlds]
        (_, first), out = worlds[0], outs[0]
        assert out.isfinite().all()
        flushes += int(first.cache.cursors.flushed[first.slot])
        for (bucket, world), other in zip(worlds[1:], outs[1:], strict=True):
            where = f"of launch {launch} in bucket {buckets[0]} and {bucket}"
            check_same_bits(other, out, f"y {where}")
            for name in CACHES:
                got = getattr(world.cache, name)[:, world.slot]
                check_same_bits(got, getattr(first.cache, name)[:, first.slot], f"{name} {where}")
            for name in CURSORS:
                got = getattr(world.cache.cursors, name)[world.slot]
                expected = getattr(first.cache.cursors, name)[first.slot]
                check_same_bits(got[None], expected[None], f"{name} {where}")
    assert flushes >= 3
