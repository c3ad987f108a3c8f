# SPDX-License-Identifier: Apache-2.0
"""Which buffers a graph may point at: declared by name, and watched for moving or being freed.

Declaring holds no tensor alive: that a declared buffer goes away is what inspection must see.
"""

from __future__ import annotations

import enum
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from graphrt.capture.inspect.report import Buffer
from graphrt.errors import ConfigError, sentence


class Role(enum.Enum):
    """What a buffer is for."""

    STATE = "state"
    RING = "ring"
    CURSOR = "cursor"
    SEED = "seed"
    SCRATCH = "scratch"
    INPUT = "input"
    OUTPUT = "output"
    WEIGHT = "weight"
    STATIC = "static"  # a step's buffer that does not say whether it is input or output


class Padding(enum.Enum):
    """What a launch does with a buffer's rows of padding."""

    NONE = "none"  # it has no rows of the batch
    ZEROED = "zeroed"  # written with zeros
    UNTOUCHED = "untouched"  # neither read nor written
    IGNORED = "ignored"  # computed like any other, and never read by a live row
    MARKED = "marked"  # holds what says that the row is padding


@dataclass(frozen=True, slots=True)
class _Declared:
    buffer: Buffer
    current: Callable[[], Tensor | None]
    storage: StorageWeakRef


class Manifest:
    """The declared buffers of a graph, by name, in the order of declaration.

    Declare before the capture or right after it: a buffer's address at declaration is taken for
    the one the graph was captured with.
    """

    def __init__(self) -> None:
        """Declare nothing yet."""
        self._declared: dict[str, _Declared] = {}

    def declare(
        self,
        name: str,
        tensor: Tensor,
        role: Role = Role.STATIC,
        padding: Padding = Padding.NONE,
        *,
        current: Callable[[], Tensor | None] | None = None,
    ) -> None:
        """Declare ``tensor`` under ``name``.

        current: returns the tensor that goes by this name today, None where there is none; default
        the same object while it lives, which sees ``tensor.data = …`` and a freed tensor. Give it
        where another object may take the name, such as a module's new parameter. Raises
        ConfigError for a name that is taken.
        """
        if name in self._declared:
            raise ConfigError(
                sentence("buffer", name, "is declared already", "give every buffer its own name")
            )
        self._declared[name] = _Declared(
            Buffer(
                name=name,
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                role=role.value,
                padding=padding.value,
                address=(address := tensor.data_ptr()),
                nbytes=_extent(tensor),
                address_now=address,
            ),
            current or weakref.ref(tensor),
            StorageWeakRef(tensor.untyped_storage()),
        )

    def declare_all(
        self,
        tensors: Mapping[str, Tensor],
        role: Role = Role.STATIC,
        padding: Padding = Padding.NONE,
        *,
        prefix: str = "",
    ) -> None:
        """Declare every tensor of ``tensors`` as ``prefix + name``."""
        for name, tensor in tensors.items():
            self.declare(prefix + name, tensor, role, padding)

    def declare_module(
        self, module: nn.Module, role: Role = Role.WEIGHT, *, prefix: str = ""
    ) -> None:
        """Declare a module's parameters and buffers under their dotted names.

        Assigning a new parameter under the same name later counts as moving the buffer. A tensor
        that two names share is declared under the first.
        """
        seen: set[int] = set()
        for path, owner in module.named_modules():
            own = {**owner._parameters, **owner._buffers}
            for name, tensor in own.items():
                if tensor is None or id(tensor) in seen:
                    continue
                seen.add(id(tensor))
                full = f"{prefix}{path}.{name}" if path else prefix + name
                self.declare(full, tensor, role, current=_attribute(owner, name))

    def copy(self) -> Manifest:
        """Return a manifest with the same declarations, to be added to."""
        other = Manifest()
        other._declared = dict(self._declared)
        return other

    def declared(self) -> tuple[Buffer, ...]:
        """Return every buffer as it was declared, without looking where it is now: takes no time.

        For who declares and checks in one go; `buffers` sees what moved since.
        """
        return tuple(declared.buffer for declared in self._declared.values())

    def buffers(self) -> tuple[Buffer, ...]:
        """Return every declared buffer with its status as of now."""
        return tuple(_look(declared) for declared in self._declared.values())

    def __len__(self) -> int:
        """Return how many buffers are declared."""
        return len(self._declared)

    def __contains__(self, name: str) -> bool:
        """Return whether ``name`` is declared."""
        return name in self._declared

    def __iter__(self) -> Iterator[str]:
        """Yield the names in the order of declaration."""
        return iter(self._declared)


def _attribute(owner: nn.Module, name: str) -> Callable[[], Tensor | None]:
    reference = weakref.ref(owner)

    def current() -> Tensor | None:
        module = reference()
        return None if module is None else getattr(module, name, None)

    return current


def _look(declared: _Declared) -> Buffer:
    buffer = declared.buffer
    tensor = declared.current()
    if tensor is not None and tensor.data_ptr() != buffer.address:
        return _with(buffer, "moved", tensor.data_ptr())
    if declared.storage.expired():
        return _with(buffer, "freed", 0)
    return _with(buffer, "live", buffer.address)


def _with(buffer: Buffer, status: str, address_now: int) -> Buffer:
    return Buffer(
        buffer.name,
        buffer.shape,
        buffer.dtype,
        buffer.role,
        buffer.padding,
        buffer.address,
        buffer.nbytes,
        status,
        address_now,
    )


def _extent(tensor: Tensor) -> int:
    """Return the bytes from the tensor's first element to its last, both included."""
    if tensor.is_contiguous():
        return tensor.numel() * tensor.element_size()
    if tensor.numel() == 0:
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return (sum((size - 1) * stride for size, stride in steps) + 1) * tensor.element_size()
