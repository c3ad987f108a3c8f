# SPDX-License-Identifier: Apache-2.0
"""The chain: the order of the stages, their PDL links, and which backend runs them.

    advance                                       once a launch
    → conv1d → precompute → state update          per layer; each arrow can be a PDL link
    → conv1d → fused                              the same in fewer kernels, where it is faster
    → single                                      the same in one

On CUDA the stages are Triton kernels, on the CPU their PyTorch twins (and the kernels themselves
under Triton's interpreter, which is how machines without a GPU test them).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import triton
from torch import Tensor

from graphrt.errors import ConfigError, sentence
from graphrt.kernels import advance as advance_kernels
from graphrt.kernels import reference
from graphrt.kernels.compiled import Compiled
from graphrt.kernels.conv1d import conv1d
from graphrt.kernels.fused import fused
from graphrt.kernels.links import StageAccess, stages_of
from graphrt.kernels.pdl import usable_links
from graphrt.kernels.precompute import precompute
from graphrt.kernels.single import single
from graphrt.kernels.state_update import state_update
from graphrt.kernels.tensors import LayerInputs, LayerWeights
from graphrt.kernels.tuning import architecture, lookup

if TYPE_CHECKING:
    from graphrt.cache import ReplayCache
    from graphrt.config import PdlLinks


class BoundChain:
    """The chain over one cache, bound to a bucket of rows, T tokens and their ``slot_ids``.

    rows: the bucket. tokens: T. slot_ids: (rows,) int32 on the cache's device, -1 is padding; read
    by advance when it runs, which leaves each row's slot and cursors to the layers in the scratch.
    All chains over one cache share that: a launch, advance and its layers, is made whole before
    another chain's advance. Every method enqueues on the current stream, allocates nothing, is safe
    under capture, and returns nothing. ``compiled`` collects the Triton kernels launched so far:
    whoever captures the chain must keep them alive.
    """

    def __init__(
        self,
        cache: ReplayCache,
        slot_ids: Tensor,
        tokens: int,
        links: PdlLinks | None = None,
        *,
        alone: bool = True,
    ) -> None:
        """Bind ``cache``; nothing is launched. Raises ConfigError for more than it has room for.

        links: by default the configuration's. alone: nothing else is enqueued between `advance` and
        the last layer; it decides which links are worth having, never what is right.
        """
        config = cache.config
        for what, got, most in (
            ("rows", len(slot_ids), config.buckets[-1]),
            ("tokens", tokens, config.tokens),
        ):
            if not 1 <= got <= most:
                raise ConfigError(
                    sentence(what, got, f"the scratch has room for 1 … {most}", "configure more")
                )
        self.rows = slot_ids.shape[0]
        self.tokens = tokens
        self.slot_ids = slot_ids
        self.compiled: set[Compiled] = set()
        self._cache = cache
        self._config = config
        self._layers = [cache.layer(layer) for layer in range(config.layers)]
        self._scratch = cache.scratch(self.rows, tokens)
        self._links = usable_links(links or config.pdl, config.device)
        self._launch = lookup(
            config.shape,
            self.rows,
            tokens=tokens,
            state_dtype=config.state_dtype,
            activation_dtype=config.activation_dtype,
            rounding=config.rounding,
            window=config.window,
            arch=architecture(config.device),
        )
        self._stochastic = config.rounding == "stochastic"
        self._use_kernels = runs_kernels(config.device)
        self._alone = alone
        self._is_behind = False

    @property
    def links(self) -> PdlLinks:
        """The links that launches have, where the device has any.

        A layer that is a single kernel is launched normally in a step that enqueues kernels of its
        own: those signal nothing, and behind them it is faster so (docs/performance.md).
        """
        if self._alone or self._launch.single is None:
            return self._links
        return replace(self._links, conv1d=False)

    @property
    def stages(self) -> tuple[StageAccess, ...]:
        """What the chain's kernels touch, in their order, as `graphrt.kernels.links` has it."""
        if self._launch.single is None:
            return stages_of("state_update" if self._launch.fused is None else "fused")
        advance, first, others = stages_of("single")
        has_others = self.links.conv1d and len(self._layers) > 1
        return (advance, first, others) if has_others else (advance, first)

    def advance(self) -> None:
        """Commit the accepted counts of the slots' last launches; once a launch, before layers."""
        config = self._config
        self._is_behind = False
        given = (self.slot_ids, self._cache.cursors, self._scratch.row_cursors)
        sizes: dict[str, Any] = {
            "tokens": self.tokens,
            "window": config.window,
            "ring_rows": config.ring_rows,
            "conv_rows": config.conv_ring_rows,
        }
        if self._use_kernels:
            self._keep(advance_kernels.advance(*given, **sizes, links=self.links))
        else:
            reference.advance_reference(*given, **sizes)

    def accept(self, counts: Tensor) -> None:
        """Write ``accepted[slot_ids[row]] = counts[row]`` for the live among the first rows.

        counts: (n,) int32 contiguous, n ≤ rows, on the cache's device.
        """
        if counts.ndim != 1 or len(counts) > self.rows or counts.dtype != torch.int32:
            raise ConfigError(
                sentence(
                    "counts",
                    f"{counts.dtype} {tuple(counts.shape)}",
                    f"must be int32 of one dimension, at most {self.rows} long",
                    "pass one count a row of the bucket",
                )
            )
        accepted = self._cache.cursors.accepted
        self._keep(accept_counts(self.slot_ids[: len(counts)], counts, accepted))

    def layer(self, layer: int, inputs: LayerInputs, weights: LayerWeights, out: Tensor) -> None:
        """Run one layer of the launch that `advance` began: `stages` but the first.

        out: (rows, T, H, P) activation dtype, any strides, overwritten in every row (zeros in
        padding). Mutates the layer's cache and the scratch. Raises ConfigError for a wrong shape
        or dtype before anything is launched.
        """
        self._check(layer, inputs, weights, out)
        cache, scratch = self._layers[layer], self._scratch
        shape, window = self._config.shape, self._config.window
        if not self._use_kernels:
            twin = (inputs, weights, cache, self._cache.cursors, self.slot_ids, scratch)
            reference.conv1d_reference(*twin)
            reference.precompute_reference(*twin, shape=shape, window=window)
            reference.state_update_reference(
                *twin, out, shape=shape, window=window, stochastic=self._stochastic
            )
            return
        stage = (inputs, weights, cache, scratch)
        launch, links = self._launch, self.links
        sizes: dict[str, Any] = {"shape": shape, "window": window, "links": links}
        stochastic = self._stochastic
        if launch.single is not None:
            sizes |= {"stochastic": stochastic, "behind": self._is_behind}
            self._keep(single(*stage, out, **sizes, launch=launch.single))
            self._is_behind = True
            return
        self._keep(conv1d(*stage, links=links, launch=launch.conv1d))
        if launch.fused is not None:
            self._keep(fused(*stage, out, **sizes, stochastic=stochastic, launch=launch.fused))
            return
        self._keep(precompute(*stage, **sizes, launch=launch.precompute))
        self._keep(
            state_update(*stage, out, **sizes, stochastic=stochastic, launch=launch.state_update)
        )

    def _keep(self, compiled: Compiled) -> None:
        if compiled is not None:
            self.compiled.add(compiled)

    def _check(self, layer: int, inputs: LayerInputs, weights: LayerWeights, out: Tensor) -> None:
        shape, act = self._config.shape, (self._config.activation_dtype,)
        weight = (*act, torch.float32)
        rows, tokens, heads = self.rows, self.tokens, shape.heads
        if not 0 <= layer < len(self._layers):
            self._cache.layer(layer)  # raises, naming the rule
        _check_tensor("xbc", inputs.xbc, (rows, tokens, shape.conv_dim), act)
        _check_tensor("dt", inputs.dt, (rows, tokens, heads), weight)
        _check_tensor("z", inputs.z, (rows, tokens, heads, shape.head_dim), act)
        _check_tensor("out", out, (rows, tokens, heads, shape.head_dim), act)
        taps = (shape.conv_dim, shape.conv_width)
        _check_tensor("conv_weight", weights.conv_weight, taps, weight)
        _check_vector("conv_bias", weights.conv_bias, shape.conv_dim, weight)
        _check_vector("A", weights.A, heads, (torch.float32,))
        _check_vector("dt_bias", weights.dt_bias, heads, weight)
        _check_vector("D", weights.D, heads, weight)


def runs_kernels(device: torch.device) -> bool:
    """Return whether the chain runs as Triton kernels on ``device``, and not as their twins."""
    return device.type == "cuda" or bool(triton.knobs.runtime.interpret)


def accept_counts(slots: Tensor, counts: Tensor, accepted: Tensor) -> Compiled:
    """Write ``accepted[slots[i]] = counts[i]`` where ``slots[i]`` is not -1; all int32."""
    kernels = runs_kernels(accepted.device)
    run = advance_kernels.accept if kernels else reference.accept_reference
    return run(slots, counts, accepted)


def _check_vector(
    name: str, tensor: Tensor | None, length: int, dtypes: tuple[torch.dtype, ...]
) -> None:
    _check_tensor(name, tensor, (length,), dtypes)
    if tensor is not None and length > 1 and tensor.stride(0) != 1:
        raise ConfigError(
            sentence(f"{name}.stride()", tensor.stride(), "must be contiguous", "copy it once")
        )


def _check_tensor(
    name: str, tensor: Tensor | None, dims: tuple[int, ...], dtypes: tuple[torch.dtype, ...]
) -> None:
    if tensor is None:
        return
    if tuple(tensor.shape) != dims:
        raise ConfigError(
            sentence(f"{name}.shape", tuple(tensor.shape), f"must be {dims}", "see LayerInputs")
        )
    if tensor.dtype not in dtypes:
        names = " or ".join(str(dtype) for dtype in dtypes)
        raise ConfigError(
            sentence(f"{name}.dtype", tensor.dtype, f"must be {names}", "cast it before the chain")
        )
