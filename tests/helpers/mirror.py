# SPDX-License-Identifier: Apache-2.0
"""A driver that runs the twins beside the kernels, stage by stage, and compares what each wrote.

Each twin starts from the tensors its kernel started from, so nothing adds up: cursors and rings
must have the same bits, scratch and outputs must agree to fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphrt.cache import ReplayCache
from graphrt.kernels import reference
from graphrt.kernels.chain import BoundChain
from graphrt.kernels.tensors import LayerInputs, Scratch
from tests.helpers.checks import Mismatch, check_same_bits, spacing
from tests.helpers.contents import CACHES, CURSORS, FLOAT_SCRATCH
from tests.helpers.drive import ChainDriver


class MirroredDriver(ChainDriver):
    """A `ChainDriver` whose every stage is also run by its twin, on a second cache."""

    stage_limit = 1e-5  # of fp32 values, relative to the tensor's largest

    def run_advance(self, chain: BoundChain) -> None:
        """Run advance and its twin; compare every cursor."""
        mirror = self._mirror()
        super().run_advance(chain)
        reference.advance_reference(
            chain.slot_ids,
            mirror.cursors,
            mirror.scratch(chain.rows, chain.tokens).row_cursors,
            tokens=chain.tokens,
            window=self.case.window,
            ring_rows=self.config.ring_rows,
            conv_rows=self.config.conv_ring_rows,
        )
        for name in (*CURSORS, "clamped"):
            got, expected = getattr(self.cache.cursors, name), getattr(mirror.cursors, name)
            check_same_bits(got, expected, f"{name}, kernel and twin")
        check_same_bits(
            self._whole_scratch(self.cache).row_cursors,
            self._whole_scratch(mirror).row_cursors,
            "row_cursors, kernel and twin",
        )

    def run_layer(self, chain: BoundChain, layer: int, inputs: LayerInputs, out: Tensor) -> None:
        """Run one layer and the twin of each of its stages; compare what they wrote."""
        mirror = self._mirror()
        super().run_layer(chain, layer, inputs, out)
        kernel = self.cache.scratch(chain.rows, chain.tokens)
        twin = mirror.scratch(chain.rows, chain.tokens)
        twin_out = torch.full_like(out, torch.nan)
        stage = (
            inputs,
            self.weights[layer],
            mirror.layer(layer),
            mirror.cursors,
            chain.slot_ids,
            twin,
        )
        shape, window = self.case.shape(), self.case.window

        kernels = [stage.name for stage in chain.stages]
        reference.conv1d_reference(*stage)
        if "conv1d" in kernels:
            conv_out = kernel.conv_out
        else:  # of single nothing is seen, and it convolves as conv1d does
            conv_out = self._convolved(layer, inputs, kernel)
        self._check("conv_out", conv_out, twin.conv_out)
        twin.conv_out.copy_(conv_out)
        reference.precompute_reference(*stage, shape=shape, window=window)
        if "precompute" in kernels:
            self._hand_on(kernel, twin)
        stochastic = self.case.rounding == "stochastic"
        reference.state_update_reference(
            *stage, twin_out, shape=shape, window=window, stochastic=stochastic
        )
        self._check("y", out, twin_out)
        for name in ("x_ring", "b_ring", "conv_ring"):
            got, expected = getattr(self.cache, name), getattr(mirror, name)
            check_same_bits(got, expected, f"{name}, kernel and twin")
        for name in ("dt_ring", "state"):
            self._check(name, getattr(self.cache, name), getattr(mirror, name))

    def _hand_on(self, kernel: Scratch, twin: Scratch) -> None:
        """Compare what precompute and its twin wrote; give the latter what the former has."""
        # Two bf16 planes hold 16 bits of the matrix, 15 where the interpreter cuts and does not
        # round.
        last_bit = 2.0**-15 if kernel.causal.shape[2] == 2 else 0.0
        self._check(
            "causal", kernel.causal.float().sum(2), twin.causal.float().sum(2), last_bit=last_bit
        )
        for name in ("read_c", "decay", "fold_weight", "fold_decay"):
            self._check(name, getattr(kernel, name), getattr(twin, name))
            getattr(twin, name).copy_(getattr(kernel, name))
        twin.causal.copy_(kernel.causal)

    def _mirror(self) -> ReplayCache:
        """Return a copy of the cache, poison and all."""
        mirror = ReplayCache(self.config)
        for name in CACHES:
            getattr(mirror, name).copy_(getattr(self.cache, name))
        for name in (*CURSORS, "clamped"):
            getattr(mirror.cursors, name).copy_(getattr(self.cache.cursors, name))
        scratch = self._whole_scratch(mirror)
        for name in FLOAT_SCRATCH:
            getattr(scratch, name).fill_(torch.nan)
        scratch.row_cursors.copy_(self._whole_scratch(self.cache).row_cursors)
        return mirror

    def _whole_scratch(self, cache: ReplayCache) -> Scratch:
        return cache.scratch(self.case.buckets[-1], self.case.tokens)

    def _check(self, name: str, kernel: Tensor, twin: Tensor, last_bit: float = 0.0) -> None:
        """Require one rounding of ``kernel``'s dtype and stage_limit between the two, NaN alike."""
        got, expected = kernel.detach().cpu(), twin.detach().cpu()
        both_nan = got.isnan() & expected.isnan()
        got = got.double().masked_fill(both_nan, 0)
        reference_ = expected.double().masked_fill(both_nan, 0)
        allowed = self.stage_limit * reference_.abs().max() + last_bit * reference_.abs()
        if expected.dtype != torch.float32:
            allowed = allowed + spacing(reference_, expected.dtype)
        error = (got - reference_).abs()
        if not bool((error <= allowed).all()):
            raise Mismatch(f"{name}: kernel and twin differ by up to {error.max():.3e}")
