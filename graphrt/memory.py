# SPDX-License-Identifier: Apache-2.0
"""The bytes of every tensor a runtime owns, known before anything is allocated.

`plan_memory` is the single statement of shapes and dtypes; `graphrt.cache` allocates what it says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from graphrt.config import RuntimeConfig
from graphrt.errors import MemoryPlanError


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor: its name, shape and dtype, whether a slot owns a part of it, what shrinks it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    per_slot: bool
    lower: str

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """All tensors of a runtime, in the order they are allocated. ``str()`` is a table."""

    tensors: tuple[TensorPlan, ...]
    slots: int

    def __getitem__(self, name: str) -> TensorPlan:
        """Return the plan of the tensor called ``name``."""
        return next(tensor for tensor in self.tensors if tensor.name == name)

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def slot_bytes(self) -> int:
        """Bytes that one more slot costs."""
        return sum(tensor.nbytes for tensor in self.tensors if tensor.per_slot) // self.slots

    def check_fits(self, free_bytes: int, device: torch.device) -> None:
        """Raise MemoryPlanError, naming the largest tensor, if the plan exceeds ``free_bytes``."""
        if self.total_bytes <= free_bytes:
            return
        largest = max(self.tensors, key=lambda tensor: tensor.nbytes)
        raise MemoryPlanError(
            f"memory={format_bytes(self.total_bytes)}: {device} has {format_bytes(free_bytes)} "
            f"free; the largest tensor is {largest.name} {largest.shape} "
            f"({format_bytes(largest.nbytes)}), lower {largest.lower}"
        )

    def __str__(self) -> str:
        """Return one line a tensor, then bytes by slot and in total."""
        rows = [
            (
                tensor.name,
                str(tensor.shape),
                str(tensor.dtype).removeprefix("torch."),
                format_bytes(tensor.nbytes),
            )
            for tensor in self.tensors
        ]
        rows.append(("a slot", "", "", format_bytes(self.slot_bytes)))
        rows.append(("total", "", "", format_bytes(self.total_bytes)))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join(
            f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {dtype:<{widths[2]}}  {size:>{widths[3]}}"
            for name, shape, dtype, size in rows
        )


ROW_CURSOR_COLUMNS = 8
"""Whole numbers that advance leaves each row for the stages: 64 bytes, a line of its own."""


def padded_tokens(tokens: int) -> int:
    """Return the columns of a product with one for each of T tokens: a power of two, at least 8."""
    return max(8, 1 << (tokens - 1).bit_length())


def padded_window(window: int) -> int:
    """Return the columns of the causal matrix for the history: a power of two, at least 16."""
    return max(16, 1 << (window - 1).bit_length())


def plan_memory(config: RuntimeConfig) -> MemoryPlan:
    """Return every tensor of design section 4 for ``config``: caches, cursors, seeds, scratch."""
    shape, slots, layers = config.shape, config.slots, config.layers
    heads, ring_rows, act = shape.heads, config.ring_rows, config.activation_dtype
    bucket, tokens = config.buckets[-1], config.tokens
    planes = act == torch.bfloat16
    columns = padded_window(config.window) + padded_tokens(tokens)
    read = torch.float16 if planes and config.state_dtype == torch.float16 else act
    per_slot = "slots, layers or the state dtype's width"
    ring = "slots, layers or window"

    def cache(name: str, dims: tuple[int, ...], dtype: torch.dtype, lower: str) -> TensorPlan:
        return TensorPlan(name, (layers, slots, *dims), dtype, True, lower)

    def cursor(name: str, dtype: torch.dtype = torch.int32) -> TensorPlan:
        return TensorPlan(name, (slots,), dtype, True, "slots")

    def scratch(name: str, dims: tuple[int, ...], dtype: torch.dtype) -> TensorPlan:
        return TensorPlan(name, (bucket, *dims), dtype, False, "the largest bucket or tokens")

    return MemoryPlan(
        (
            cache("state", (heads, shape.head_dim, shape.state_dim), config.state_dtype, per_slot),
            cache("x_ring", (heads, ring_rows, shape.head_dim), act, ring),
            cache("b_ring", (shape.groups, ring_rows, shape.state_dim), act, ring),
            cache("dt_ring", (heads, ring_rows), torch.float32, ring),
            cache("conv_ring", (config.conv_ring_rows, shape.conv_dim), act, "slots or layers"),
            cursor("held"),
            cursor("ring_start"),
            cursor("conv_pos"),
            cursor("flushed"),
            cursor("last_tokens"),
            cursor("rand_seed", torch.int64),
            cursor("accepted"),
            scratch("conv_out", (tokens, shape.conv_dim), act),
            scratch("read_c", (shape.groups, tokens, shape.state_dim), read),
            scratch(
                "causal",
                (heads, 2 if planes else 1, tokens, columns),
                torch.bfloat16 if planes else torch.float32,
            ),
            scratch("decay", (heads, tokens), torch.float32),
            scratch("fold_weight", (heads, padded_window(config.window)), torch.float32),
            scratch("fold_decay", (heads,), torch.float32),
            scratch("row_cursors", (ROW_CURSOR_COLUMNS,), torch.int64),
        ),
        slots,
    )


def free_bytes(device: torch.device) -> int:
    """Return the bytes that can still be allocated on ``device`` now.

    On CUDA that includes what PyTorch's caching allocator holds unused; on the CPU it is the
    memory the operating system calls available.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + int(cached)
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        for line in meminfo:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise MemoryPlanError(
        "MemAvailable=missing: /proc/meminfo does not say what is free; use Linux 3.14 or newer"
    )


def format_bytes(count: int) -> str:
    """Return ``count`` bytes in the largest binary unit that leaves a whole part."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024.0:
            return f"{int(value)} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024.0
    return f"{value:.1f} TiB"
