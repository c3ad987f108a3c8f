# SPDX-License-Identifier: Apache-2.0
"""The bytes that a launch of one layer must move through device memory: the floor.

    S = H·P·N·b_s                       a slot's state
    r = H·P·b_a + G·N·b_a + 4·H         a token in the rings: x, B, dt
    I = T·(conv_dim·b_a + H·b_a + H·P·b_a)                 a launch's x, B, C, dt and y
    lazy ring, a slot and launch:  (1 + f)·S + I + (h + T)·r

with f the share of launches that flush and h the mean history. Each input is read once, each output
written once. What stays in L2 between two kernels of a launch (scratch, conv1d's output on its way)
is not counted, nor are weights and cursors.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphrt.bench.cases import Case
from graphrt.bench.histories import flush_share, found, mean


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one slot and layer. See the module for the symbols; conv is a token in conv_ring."""

    state: int
    ring_token: int
    conv_token: int
    x: int
    bc: int
    dt: int
    y: int
    tokens: int
    conv_history: int

    @classmethod
    def of(cls, case: Case) -> Traffic:
        """Return the sizes of ``case``."""
        shape = case.shape
        act, heads = case.activation_dtype.itemsize, shape.heads
        x = shape.inner_dim * act
        b = shape.groups * shape.state_dim * act
        return cls(
            state=shape.inner_dim * shape.state_dim * case.state_dtype.itemsize,
            ring_token=x + b + 4 * heads,
            conv_token=shape.conv_dim * act,
            x=case.tokens * x,
            bc=case.tokens * 2 * b,
            dt=case.tokens * heads * act,
            y=case.tokens * x,
            tokens=case.tokens,
            conv_history=shape.conv_width - 1,
        )

    @property
    def inputs_and_outputs(self) -> int:
        """I, of the state's part of the chain."""
        return self.x + self.bc + self.dt + self.y

    @property
    def slot(self) -> int:
        """What one slot's caches are read and written for at least: state, rings of T tokens."""
        return self.state + self.tokens * (self.ring_token + self.conv_token)


def floor_bytes(case: Case) -> dict[str, float]:
    """Return the floor of a launch, by contender, for the whole batch.

    ``conv1d``, ``precompute`` and ``state_update`` each alone; ``pair``, the last two, is the lazy
    ring of the module; ``chain`` is all three, ``read`` the state and the launch's own tensors.
    ``snapshots`` stores a state for every token and copies the winner: (3 + T)·S + I.
    """
    shares = found(case.history, case.tokens, case.window)
    held = float(mean(shares))
    flush = float(flush_share(shares, case.tokens, case.window))
    size = Traffic.of(case)
    io, tokens = size.inputs_and_outputs, size.tokens
    x_token = case.shape.inner_dim * case.activation_dtype.itemsize
    bdt_token = size.ring_token - x_token
    conv_ring = (size.conv_history + tokens) * size.conv_token
    pair = (1 + flush) * size.state + io + (held + tokens) * size.ring_token
    per_slot = {
        "conv1d": conv_ring + 2 * tokens * size.conv_token,
        "precompute": size.bc + size.dt + (held + tokens) * bdt_token,
        "state_update": (1 + flush) * size.state
        + size.x
        + size.bc // 2
        + size.y
        + (held + tokens) * x_token
        + flush * held * bdt_token,
        "pair": pair,
        "chain": pair + conv_ring,
        "read": size.state + size.x + size.bc // 2 + size.y,
        "snapshots": (3 + tokens) * size.state + io,
        "one_token": 2 * size.state + io,
    }
    return {name: case.batch * value for name, value in per_slot.items()}
