# SPDX-License-Identifier: Apache-2.0
"""Named static buffers: a dataclass of tensors, dim 0 is the row, that a graph reads and writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from graphrt.errors import ConfigError, sentence

Input: TypeAlias = Tensor | Sequence[Any]


def named_tensors(buffers: object) -> dict[str, Tensor]:
    """Return every tensor of ``buffers`` by name, in the order of the fields.

    ``buffers`` is a dataclass instance, or a tuple or list; those inside it are entered, their
    names joined by dots (``rope.cos``, ``masks.0``). Other values are passed over. Raises
    ConfigError if ``buffers`` itself is anything else.
    """
    if not _is_container(buffers):
        raise ConfigError(
            sentence(
                "buffers",
                type(buffers).__name__,
                "static buffers are a dataclass instance whose fields are tensors",
                "declare a @dataclass with one field a tensor",
            )
        )
    return dict(_walk(buffers, ""))


def nbytes(buffers: object) -> int:
    """Return the bytes of all tensors of ``buffers``; one that has two names counts once."""
    return sum({id(t): t.nbytes for t in named_tensors(buffers).values()}.values())


def fill(buffers: object, rows: int, inputs: Mapping[str, Input]) -> None:
    """Copy each input into the first ``rows`` rows of the buffer it names; other rows stay.

    ``buffers`` is what `named_tensors` takes, or what it returned. An input is a tensor on any
    device, or a sequence of numbers, of shape (rows, *the buffer's other dimensions) and of the
    buffer's kind: bool, integer or floating point; width may differ. Raises ConfigError, with
    nothing copied, for an unknown name, another shape or another kind.

    Copies are in order on the current stream and none waits. What lies in host memory goes to
    CUDA through pinned memory of PyTorch's caching host allocator, which is not reused before the
    copy is done: the caller may overwrite an input as soon as this returns.
    """
    tensors = buffers if isinstance(buffers, Mapping) else named_tensors(buffers)
    copies = [(_rows_of(name, tensors, rows), name, value) for name, value in inputs.items()]
    checked = [(target, _source(name, value, target)) for target, name, value in copies]
    for target, source in checked:
        if target.is_cuda and not source.is_cuda:
            pinned = torch.empty(source.shape, dtype=target.dtype, pin_memory=True)
            source = pinned.copy_(source)
        target.copy_(source, non_blocking=True)


def _is_container(value: object) -> bool:
    return isinstance(value, (tuple, list)) or (is_dataclass(value) and not isinstance(value, type))


def _walk(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
        return
    if not _is_container(value):
        return
    children: Iterator[tuple[str, object]]
    if isinstance(value, (tuple, list)):
        children = ((str(index), child) for index, child in enumerate(value))
    else:
        children = ((f.name, getattr(value, f.name)) for f in fields(value))  # type: ignore[arg-type]
    for child_name, child in children:
        yield from _walk(child, f"{name}.{child_name}" if name else child_name)


def _rows_of(name: str, tensors: Mapping[str, Tensor], rows: int) -> Tensor:
    if name not in tensors:
        raise ConfigError(
            sentence(
                "input",
                name,
                f"must name a static buffer: {', '.join(tensors) or 'there is none'}",
                "use one of those names, or add the buffer",
            )
        )
    tensor = tensors[name]
    if tensor.dim() == 0 or rows > len(tensor):
        raise ConfigError(
            sentence(
                "rows",
                rows,
                f"buffer {name} of shape {tuple(tensor.shape)} has fewer",
                "make dim 0 of every buffer its bucket",
            )
        )
    return tensor[:rows]


def _source(name: str, value: Input, target: Tensor) -> Tensor:
    try:
        source = value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            sentence(
                name,
                type(value).__name__,
                f"an input is a tensor or a sequence of numbers ({error})",
                f"pass shape {tuple(target.shape)}",
            )
        ) from error
    if source.shape != target.shape:
        raise ConfigError(
            sentence(
                name,
                tuple(source.shape),
                f"must have shape {tuple(target.shape)}, one row a slot of the launch",
                "reshape the input",
            )
        )
    if _kind(source.dtype) != _kind(target.dtype):
        raise ConfigError(
            sentence(
                name,
                source.dtype,
                f"the buffer holds {target.dtype}; a copy never changes the kind of number",
                f"convert it with .to({target.dtype})",
            )
        )
    return source


def _kind(dtype: torch.dtype) -> str:
    if dtype == torch.bool:
        return "bool"
    if dtype.is_complex:
        return "complex"
    return "floating point" if dtype.is_floating_point else "integer"
