# SPDX-License-Identifier: Apache-2.0
"""The poison run over a runtime's own graphs: which memory they must not read, and what they make.

report = poison_run(runtime_cases(runtime, step))
assert report.passed, report.failures
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle

import torch
from torch import Tensor

from graphrt.capture import driver
from graphrt.capture.bucket_graphs import BucketGraph
from graphrt.capture.buffers import named_tensors
from graphrt.capture.cuda_graph import CudaGraph
from graphrt.capture.inspect.memory import allocator_memory
from graphrt.capture.inspect.poison import PoisonCase
from graphrt.capture.inspect.report import PointsTo
from graphrt.declared import Declares
from graphrt.kernels.tensors import SCRATCH
from graphrt.runtime import DecodeRuntime
from graphrt.step import Step

_CACHES = ("state", "x_ring", "b_ring", "dt_ring", "conv_ring")
_CURSORS = ("held", "ring_start", "conv_pos", "flushed", "last_tokens", "rand_seed", "accepted")
# Zeros, NaN in every floating dtype and -1, a large number.
_POOL_BYTES = (0x00, 0xFF, 0x7B)


def runtime_cases(runtime: DecodeRuntime, step: Step) -> list[PoisonCase]:
    """Return a case for every captured graph of ``runtime``, which captured ``step``.

    Rows are slots 0 … bucket - 2, or slot 0 alone, and the rest is padding; fill state and inputs
    before, from a few launches say. Poisoned are scratch, what the step writes, floating-point
    inputs in rows of padding, and all that belongs to other slots, which must be left as it is. On
    CUDA the memory of the graph's temporaries is overwritten too, before every launch. A case puts
    the runtime back to how it is now before each of its launches; what other slots held is lost, so
    close the runtime after the run.
    """
    return [_case(runtime, step, captured) for captured in runtime.captured]


def _case(runtime: DecodeRuntime, step: Step, captured: BucketGraph[object]) -> PoisonCase:
    bucket, tokens = captured.bucket, captured.tokens
    cache, config = runtime.cache, runtime.config
    live = max(1, min(bucket - 1, config.slots))
    outputs = step.outputs if isinstance(step, Declares) else frozenset()
    buffers = named_tensors(runtime.buffers(bucket, tokens))
    inputs = {name: tensor for name, tensor in buffers.items() if name not in outputs}
    caches = {name: getattr(cache, name) for name in _CACHES}
    cursors = {name: getattr(cache.cursors, name) for name in _CURSORS}
    scratch = cache.scratch(config.buckets[-1], config.tokens)

    poisoned: dict[str, Tensor] = {name: getattr(scratch, name) for name in SCRATCH}
    poisoned |= {name: buffers[name] for name in outputs}
    others = {f"other slots of {name}": tensor[:, live:] for name, tensor in caches.items()}
    others |= {f"other slots of {name}": tensor[live:] for name, tensor in cursors.items()}
    # Whole numbers are looked up by: in rows of padding too they must be valid.
    padding = {
        f"padding of {name}": tensor[live:]
        for name, tensor in inputs.items()
        if tensor.is_floating_point()
    }
    results = {name: buffers[name][:live] for name in sorted(outputs)}
    results |= {name: tensor[:, :live] for name, tensor in caches.items()}
    results |= {name: tensor[:live] for name, tensor in cursors.items()}
    return PoisonCase(
        name=f"bucket {bucket}, T {tokens}",
        launch=_launch(captured, config.device),
        reset=_reset({**inputs, **caches, **cursors}, runtime.slot_ids(bucket), live),
        poisoned=_nonempty({**poisoned, **padding, **others}),
        results=results,
        untouched=frozenset(_nonempty(others)),
    )


def _nonempty(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor.numel()}


def _reset(tensors: Mapping[str, Tensor], slot_ids: Tensor, live: int) -> Callable[[], None]:
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    rows = torch.full_like(slot_ids, -1)
    rows[:live] = torch.arange(live, dtype=rows.dtype, device=rows.device)

    def reset() -> None:
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])
        slot_ids.copy_(rows)

    return reset


def _launch(captured: BucketGraph[object], device: torch.device) -> Callable[[], None]:
    """Return what launches the graph; on CUDA after overwriting the memory of its temporaries."""
    graph = captured.graph
    if not isinstance(graph, CudaGraph):
        return graph.launch
    pool = tuple(graph.torch_graph.pool())
    fillings = cycle(_POOL_BYTES)

    def launch() -> None:
        byte = next(fillings)
        stream = driver.current_stream(torch.cuda.current_device())
        for address, nbytes, what in allocator_memory(pool, unused_only=True):
            if what is PointsTo.POOL:
                driver.fill_memory(address, byte, nbytes, stream)
        graph.launch()

    return launch
