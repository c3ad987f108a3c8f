# SPDX-License-Identifier: Apache-2.0
"""ReplayCache: every tensor a runtime owns, allocated once, plus what admission writes."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphrt.config import RuntimeConfig
from graphrt.errors import ConfigError, sentence
from graphrt.kernels.rounding import round_state_reference
from graphrt.kernels.row_cursors import clear_row_cursors
from graphrt.kernels.tensors import NO_CLAMP, SCRATCH, Cursors, LayerCache, Scratch
from graphrt.memory import MemoryPlan, free_bytes, padded_tokens, padded_window


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What a prompt leaves behind for one slot, made by prefill.

    state: (layers, H, P, N), any float dtype, after the last prompt token. conv_tail:
    (layers, width - 1, conv_dim), the last raw inputs of each convolution, oldest first.
    """

    state: Tensor
    conv_tail: Tensor


class ReplayCache:
    """Every tensor of the replay method for all layers and slots of one runtime.

    Attributes named in `Cursors` and in ``config.memory()``: ``state`` (layers, slots, H, P, N),
    ``x_ring``, ``b_ring``, ``dt_ring``, ``conv_ring`` and so on. Allocated in the constructor and
    never re-allocated: captured graphs hold their addresses. Raises MemoryPlanError, with nothing
    allocated, when the device has too little free.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        """Allocate what ``config.memory()`` plans on ``config.device``."""
        self.config = config
        self.plan: MemoryPlan = config.memory()
        self.plan.check_fits(free_bytes(config.device), config.device)
        made = {
            tensor.name: torch.zeros(tensor.shape, dtype=tensor.dtype, device=config.device)
            for tensor in self.plan.tensors
        }
        self.state = made["state"]
        self.x_ring = made["x_ring"]
        self.b_ring = made["b_ring"]
        self.dt_ring = made["dt_ring"]
        self.conv_ring = made["conv_ring"]
        self.cursors = Cursors(
            held=made["held"],
            ring_start=made["ring_start"],
            conv_pos=made["conv_pos"],
            flushed=made["flushed"],
            last_tokens=made["last_tokens"],
            rand_seed=made["rand_seed"],
            accepted=made["accepted"],
            clamped=_host_visible(config),
        )
        clear_row_cursors(made["row_cursors"])  # until advance says otherwise
        self._scratch = Scratch(**{name: made[name] for name in SCRATCH})

    def nbytes(self) -> dict[str, int]:
        """Return the bytes of every tensor, by name."""
        return {tensor.name: tensor.nbytes for tensor in self.plan.tensors}

    def layer(self, layer: int) -> LayerCache:
        """Return views of one layer's cache."""
        if not 0 <= layer < self.config.layers:
            raise ConfigError(
                sentence(
                    "layer",
                    layer,
                    f"must be 0 … {self.config.layers - 1}",
                    "raise RuntimeConfig.layers or fix the step",
                )
            )
        return LayerCache(
            state=self.state[layer],
            x_ring=self.x_ring[layer],
            b_ring=self.b_ring[layer],
            dt_ring=self.dt_ring[layer],
            conv_ring=self.conv_ring[layer],
            layer=layer,
        )

    def scratch(self, rows: int, tokens: int) -> Scratch:
        """Return views of the scratch for a launch of ``rows`` x ``tokens``.

        All launches share it: they are ordered by their stream and hand nothing on through it.
        """
        _, heads, planes, _, _ = self._scratch.causal.shape
        columns = padded_window(self.config.window) + padded_tokens(tokens)
        return Scratch(
            conv_out=self._scratch.conv_out[:rows, :tokens],
            read_c=self._scratch.read_c[:rows, :, :tokens],
            causal=_front(self._scratch.causal, rows, heads, planes, tokens, columns),
            decay=self._scratch.decay[:rows, :, :tokens],
            fold_weight=self._scratch.fold_weight[:rows],
            fold_decay=self._scratch.fold_decay[:rows],
            row_cursors=self._scratch.row_cursors[:rows],
        )

    def with_cursors(self, cursors: Cursors, row_cursors: Tensor) -> ReplayCache:
        """Return the same caches and scratch, but with these cursors by slot and by row.

        row_cursors: as in `Scratch`, for the largest bucket's rows.
        """
        other = copy.copy(self)
        other.cursors = cursors
        other._scratch = replace(self._scratch, row_cursors=row_cursors)
        return other

    def admit(self, slot: int, prefilled: Prefilled | None, seed: int) -> None:
        """Make ``slot`` a fresh request, its state and conv history zero or as prefilled.

        Enqueued on the current stream. Ring rows are left as they are: with ``held = 0`` none of
        them is history, and rows that are not history are never loaded.
        """
        config, cursors = self.config, self.cursors
        history_rows = slice(config.conv_ring_rows - (config.shape.conv_width - 1), None)
        if prefilled is None:
            self.state[:, slot].zero_()
            self.conv_ring[:, slot, history_rows].zero_()
        else:
            self._check(prefilled)
            conv_tail = prefilled.conv_tail.to(config.device, config.activation_dtype)
            self.conv_ring[:, slot, history_rows] = conv_tail
            self.state[:, slot] = round_state_reference(
                prefilled.state.to(config.device, torch.float32),
                config.state_dtype,
                seed if config.rounding == "stochastic" else None,
            )
        for cursor in (
            cursors.held,
            cursors.ring_start,
            cursors.conv_pos,
            cursors.flushed,
            cursors.last_tokens,
            cursors.accepted,
        ):
            cursor[slot].zero_()
        cursors.rand_seed[slot].fill_(seed)

    def _check(self, prefilled: Prefilled) -> None:
        shape, layers = self.config.shape, self.config.layers
        expected = {
            "state": (layers, shape.heads, shape.head_dim, shape.state_dim),
            "conv_tail": (layers, shape.conv_width - 1, shape.conv_dim),
        }
        for name, dims in expected.items():
            got = tuple(getattr(prefilled, name).shape)
            if got != dims:
                raise ConfigError(
                    sentence(
                        f"prefilled.{name}.shape",
                        got,
                        f"must be {dims}",
                        "prefill with the runtime's own shape and layers, one request at a time",
                    )
                )


def _front(tensor: Tensor, *shape: int) -> Tensor:
    """Return a contiguous view of as many of the first elements of ``tensor`` as ``shape`` has."""
    return tensor.view(-1)[: math.prod(shape)].view(shape)


def _host_visible(config: RuntimeConfig) -> Tensor:
    """Return ``cursors.clamped``: pinned on CUDA, so that a kernel writes what the host reads."""
    pinned = config.device.type == "cuda"
    clamped = torch.full((config.slots + 1,), NO_CLAMP, dtype=torch.int32, pin_memory=pinned)
    clamped[config.slots] = 0
    return clamped
