# SPDX-License-Identifier: Apache-2.0
"""Is a change to a plain PyTorch module slower, and where? Nothing of graphrt's kernels is used.

    python examples/latency_of_a_module.py

Two versions of a small network are captured into graphs and sampled in turns; the second one's MLP
is four times as wide. On a GPU device times are compared, on a CPU the host's.
"""

import contextlib

import torch
from torch import Tensor, nn

from graphrt.config import resolve_device
from graphrt.latency.budget import Budget
from graphrt.latency.compare import Comparison
from graphrt.latency.interleave import LocalSide
from graphrt.latency.live import compare_live
from graphrt.latency.report import one, sentences
from graphrt.latency.subject import GraphSubject
from graphrt.latency.yardsticks import Yardsticks

SIZE, BATCH = 256, 64


class Network(nn.Module):
    """A mixer and an MLP."""

    def __init__(self, wide: int) -> None:
        """Make random weights; ``wide``: how many times wider the MLP is."""
        super().__init__()
        self.mixer = nn.Linear(SIZE, SIZE)
        self.mlp = nn.Sequential(
            nn.Linear(SIZE, SIZE * wide), nn.GELU(), nn.Linear(SIZE * wide, SIZE)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run both."""
        mixed: Tensor = self.mlp(self.mixer(x))
        return mixed


def compared(device: torch.device, budget: Budget) -> Comparison:
    """Compare the narrow network with the wide one."""

    def subject(wide: int) -> GraphSubject:
        torch.manual_seed(0)
        network, x = Network(wide).to(device), torch.randn(BATCH, SIZE, device=device)
        whole = torch.inference_mode()(lambda: network(x))
        parts = {
            "mixer": torch.inference_mode()(lambda: network.mixer(x)),
            "mlp": torch.inference_mode()(lambda: network.mlp(x)),
        }
        return GraphSubject(whole, device, budget, parts=parts, what={"batch": BATCH})

    with contextlib.closing(Yardsticks(device)) as yardsticks:
        old = LocalSide("narrow", {"forward": lambda: subject(1)}, yardsticks)
        new = LocalSide("wide", {"forward": lambda: subject(4)}, yardsticks)
        return compare_live((old, new), ["forward"], device, budget)


def main() -> None:
    """Compare and say what was found."""
    device = resolve_device(None)
    found = compared(device, Budget(builds=4, blocks=6, host_calls=8, steps=8))
    for result in found.series:
        print(one(result))
    print(f"\n{found.old.label} → {found.new.label} on {device.type}: {found.verdict}")
    for line in sentences(found):
        print(line)


if __name__ == "__main__":
    main()
