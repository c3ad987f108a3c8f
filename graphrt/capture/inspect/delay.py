# SPDX-License-Identifier: Apache-2.0
"""The delayed producer: signal early, sleep, then write. A consumer that does not wait is seen.

A missing wait shows once in a million launches, when the producer happens to be slow. Here it is
slow every time: it lets the consumer start, holds the data back, and the buffer holds poison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphrt.capture.cuda_graph import CudaSpace
from graphrt.capture.inspect.poison import fill_poison, same_bits
from graphrt.errors import ConfigError, sentence

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class DelayReport:
    """What a delayed-producer run found: launches made, and a sentence for every early reader."""

    launches: int
    failures: tuple[str, ...] = field(default_factory=tuple)

    @property
    def passed(self) -> bool:
        """Whether the consumer waited every time."""
        return not self.failures


def delayed_producer_run(
    consumer: Callable[[], object],
    fed: Mapping[str, Tensor],
    results: Mapping[str, Tensor],
    *,
    reset: Callable[[], object] = lambda: None,
    delay_us: float = 300.0,
    rounds: int = 3,
) -> DelayReport:
    """Run ``consumer`` behind a producer that signals, sleeps ``delay_us``, then writes ``fed``.

    consumer: launches the kernel under test first, with PDL (``launch_pdl=True``), on the current
    stream; it is captured. fed: contiguous CUDA tensors that hold what the producer is to write.
    results: what the consumer makes of it. reset: brings back what the consumer changes and reads.
    First runs everything in order for reference, then ``rounds`` times with ``fed`` poisoned until
    the sleep is over. Needs a GPU with PDL, sm_90 or newer. Waits for the device.
    """
    _require_contiguous(fed)
    device = next(iter(fed.values())).device
    payload = {name: tensor.clone() for name, tensor in fed.items()}
    rows = [[payload[n].data_ptr(), t.data_ptr(), t.nbytes] for n, t in fed.items()]
    table = torch.tensor(rows, dtype=torch.int64).to(device)

    def step() -> None:
        produce(table, delay_us)
        consumer()

    space = CudaSpace(device)
    space.warm_up(step)
    with space.graph("delayed producer") as graph:
        graph.capture(step)
        graph.instantiate()
        report = run_delayed(consumer, graph.launch, payload, fed, results, reset, rounds)
        torch.cuda.synchronize(device)
    return report


def run_delayed(
    consumer: Callable[[], object],
    launch: Callable[[], object],
    payload: Mapping[str, Tensor],
    fed: Mapping[str, Tensor],
    results: Mapping[str, Tensor],
    reset: Callable[[], object],
    rounds: int,
) -> DelayReport:
    """Compare ``consumer`` over what is there with ``launch``, which writes it late."""
    reset()
    for name, tensor in fed.items():
        tensor.copy_(payload[name])
    consumer()
    reference = {name: tensor.clone() for name, tensor in results.items()}
    failures: list[str] = []
    for _ in range(rounds):
        reset()
        for tensor in fed.values():
            fill_poison(tensor, "nan")
        launch()
        differing = [n for n, t in reference.items() if not same_bits(t, results[n].clone())]
        if differing:
            failures.append(
                f"{', '.join(differing)} differ when {', '.join(fed)} come late: the consumer "
                "reads before it waits"
            )
    return DelayReport(rounds, tuple(dict.fromkeys(failures)))


def produce(table: Tensor, delay_us: float) -> object:
    """Enqueue the producer: signal, sleep, then copy every (source, target, bytes) of ``table``."""
    return _delayed_copy[(len(table),)](table, int(delay_us * 1000), BLOCK=_BLOCK, num_warps=4)


@triton.jit
def _delayed_copy(table_ptr, delay_ns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    source = tl.load(table_ptr + 3 * row)
    target = tl.load(table_ptr + 3 * row + 1)
    count = tl.load(table_ptr + 3 * row + 2)
    tl.extra.cuda.gdc_launch_dependents()
    start = tl.extra.cuda.globaltimer()
    now = start
    while now - start < delay_ns:
        now = tl.extra.cuda.globaltimer()
    for first in range(0, count, BLOCK):
        places = first + tl.arange(0, BLOCK)
        inside = places < count
        values = tl.load(source.to(tl.pointer_type(tl.uint8)) + places, mask=inside)
        tl.store(target.to(tl.pointer_type(tl.uint8)) + places, values, mask=inside)


def _require_contiguous(fed: Mapping[str, Tensor]) -> None:
    for name, tensor in fed.items():
        if not tensor.is_contiguous() or not tensor.is_cuda:
            raise ConfigError(
                sentence(
                    name,
                    f"{tensor.device} {tuple(tensor.stride())}",
                    "the producer writes contiguous CUDA tensors",
                    "pass the whole buffer",
                )
            )
