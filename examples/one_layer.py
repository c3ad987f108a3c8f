# SPDX-License-Identifier: Apache-2.0
"""One Mamba-2 layer's chain, three requests, random weights, inputs and accepted counts.

    python examples/one_layer.py

Every launch is checked against a plain loop that runs token by token in float64 and, to be able to
roll back, keeps a copy of its state after each one. The script fails if they differ.
"""

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from graphrt import ChainShape, ChainStep, DecodeRuntime, LayerWeights, RuntimeConfig

T, LAUNCHES = 4, 100


class TokenLoop:
    """One request of one layer, token by token."""

    def __init__(self, shape: ChainShape, weights: LayerWeights) -> None:
        """Start with an empty state; ``weights`` are on the CPU."""
        self.shape = shape
        self.weights = weights
        self.state = torch.zeros(shape.heads, shape.head_dim, shape.state_dim, dtype=torch.float64)
        self.recent = torch.zeros(shape.conv_width, shape.conv_dim, dtype=torch.float64)

    def step(self, xbc: Tensor, dt: Tensor) -> Tensor:
        """Advance by one token, (conv_dim,) and (H,); return y, (H, P)."""
        shape, weights = self.shape, self.weights
        self.recent = torch.cat([self.recent[1:], xbc[None]])
        conv = F.silu((weights.conv_weight.double().T * self.recent).sum(0))
        sizes = [shape.inner_dim] + 2 * [shape.groups * shape.state_dim]
        x, b, c = conv.split(sizes)
        x = x.view(shape.heads, shape.head_dim)
        b, c = (
            v.view(shape.groups, -1).repeat_interleave(shape.heads_per_group, dim=0) for v in (b, c)
        )
        dt = F.softplus(dt)
        decay = torch.exp(dt * weights.A.double())
        self.state = decay[:, None, None] * self.state + torch.einsum("h,hp,hn->hpn", dt, x, b)
        return torch.einsum("hpn,hn->hp", self.state, c)

    def launch(self, xbc: Tensor, dt: Tensor, accepted: int) -> Tensor:
        """Run T tokens, (T, conv_dim) and (T, H), and go back to after the accepted ones."""
        copies = [(self.state, self.recent)]
        ys = []
        for token in range(len(xbc)):
            ys.append(self.step(xbc[token].double(), dt[token].double()))
            copies.append((self.state, self.recent))
        self.state, self.recent = copies[accepted]
        return torch.stack(ys)


def main() -> None:
    """Run and check."""
    random.seed(0)
    torch.manual_seed(0)
    shape = ChainShape(heads=8, head_dim=32, state_dim=64, groups=2)
    config = RuntimeConfig(
        shape=shape,
        layers=1,
        slots=3,
        tokens=T,
        window=8,
        buckets=(1, 2, 3),
        activation_dtype=torch.float32,
    )
    weights = LayerWeights(
        conv_weight=torch.randn(shape.conv_dim, shape.conv_width),
        A=-torch.rand(shape.heads) - 0.1,
    )
    print(config.memory())
    with DecodeRuntime(config) as runtime:
        on_device = LayerWeights(
            conv_weight=weights.conv_weight.to(config.device), A=weights.A.to(config.device)
        )
        runtime.capture(ChainStep(config, [on_device]), progress=print)
        loops = {runtime.admit(): TokenLoop(shape, weights) for _ in range(config.slots)}
        errors = []
        for _ in range(LAUNCHES):
            slots = random.sample(list(loops), random.randint(1, len(loops)))
            xbc = torch.randn(len(slots), 1, T, shape.conv_dim)
            dt = torch.randn(len(slots), 1, T, shape.heads)
            out = runtime.launch(slots, xbc=xbc, dt=dt).out.double().cpu()
            accepted = [random.randint(0, T) for _ in slots]
            for row, slot in enumerate(slots):
                expected = loops[slot].launch(xbc[row, 0], dt[row, 0], accepted[row])
                errors.append((out[row, 0] - expected).norm() / expected.norm())
            runtime.accept(accepted)
    largest = float(torch.stack(errors).max())  # NaN if any is
    print(f"{LAUNCHES} launches on {config.device}, largest relative error {largest:.1e}")
    if not largest <= 1e-3:
        raise SystemExit("the chain and the plain loop differ")


if __name__ == "__main__":
    main()
