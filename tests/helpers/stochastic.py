# SPDX-License-Identifier: Apache-2.0
"""When launches draw the same random numbers and when not, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from graphrt.cache import ReplayCache
from graphrt.kernels.chain import BoundChain
from tests.helpers.cases import Case, random_request
from tests.helpers.checks import check_same_bits
from tests.helpers.contents import CACHES, CURSORS
from tests.helpers.tensors import place_inputs, place_weights, rows_of


class FlushingCache:
    """Two requests in a cache of several layers, one launch away from a flush.

    Every layer has the same weights, inputs and state, so that its draws alone can differ.
    """

    def __init__(self, case: Case, device: torch.device | str) -> None:
        self.case = case
        self.cache = ReplayCache(case.config(device))
        generator = torch.Generator().manual_seed(case.seed)
        weights = case.weights(generator)
        self.weights = place_weights(weights, device)
        self.inputs = case.inputs([True] * 2, case.tokens, generator)
        request = random_request(case, generator)
        request.state.copy_(request.state[:1].expand_as(request.state).clone())
        request.conv_tail.copy_(request.conv_tail[:1].expand_as(request.conv_tail).clone())
        for slot in (0, 1):
            self.cache.admit(slot, request, seed=1000 + slot)
        # The same bits in every layer: the admission drew for each layer by itself.
        self.cache.state.copy_(self.cache.state[:1, :1].expand_as(self.cache.state).clone())
        for _ in range(case.window // case.tokens):
            self.launch([0, 1])
            self.cache.cursors.accepted.fill_(case.tokens)
        self.saved = {name: getattr(self.cache, name).clone() for name in CACHES}
        self.saved |= {name: getattr(self.cache.cursors, name).clone() for name in CURSORS}

    def restore(self) -> None:
        """Put every cache and cursor, the seeds too, back to just before the flush."""
        for name in CACHES:
            getattr(self.cache, name).copy_(self.saved[name])
        for name in CURSORS:
            getattr(self.cache.cursors, name).copy_(self.saved[name])

    def launch(self, slots: list[int]) -> Tensor:
        """Launch ``slots``, each with its own input row; return the state after it, on the CPU."""
        cache, tokens = self.cache, self.case.tokens
        device = cache.config.device
        rows = [max(slot, 0) for slot in slots]
        inputs = rows_of(self.inputs, rows)
        slot_ids = torch.tensor(slots, dtype=torch.int32, device=device)
        chain = BoundChain(cache, slot_ids, tokens)
        chain.advance()
        out = self.case.empty_out(len(slots), tokens, device)
        for layer in range(self.case.layers):
            chain.layer(layer, place_inputs(inputs, device), self.weights, out)
        return cache.state.to("cpu", copy=True)

    def flush(self, slots: list[int]) -> Tensor:
        """Restore, then make the launch that flushes both requests."""
        self.restore()
        state = self.launch(slots)
        flushed = self.cache.cursors.flushed.cpu()
        assert flushed[0] and flushed[1]
        return state


def check_draws(case: Case, device: torch.device | str) -> None:
    """Check when a flush draws the same numbers and when it draws others.

    The largest bucket must be 4 or more.
    """
    assert case.rounding == "stochastic" and case.layers == 2 and case.buckets[-1] >= 4
    flushing = FlushingCache(case, device)
    first = flushing.flush([0, 1])
    check_same_bits(flushing.flush([0, 1]), first, "state, seeds restored")
    check_same_bits(flushing.flush([1, -1, 0, -1]), first, "state, another batch order")

    flushing.saved["rand_seed"] += 1
    other = flushing.flush([0, 1])
    assert_differ_by_draws(other[:, :2], first[:, :2], "seeds one further")
    assert_differ_by_draws(first[0, :2], first[1, :2], "another layer")


def assert_differ_by_draws(a: Tensor, b: Tensor, what: str) -> None:
    """Require a good part of the elements to differ, and none by more than two neighbours can."""
    differ = (a != b).double().mean()
    assert 0.1 < differ < 0.9, f"{what}: {differ:.0%} of the elements differ"
    spacing = torch.finfo(a.dtype).eps * torch.maximum(a.abs(), b.abs()).double()
    smallest = torch.finfo(a.dtype).smallest_normal
    assert ((a.double() - b.double()).abs() <= spacing + smallest).all(), what
