# SPDX-License-Identifier: Apache-2.0
"""DecodeRuntime: admit → launch → accept → release over captured graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from graphrt.accepting import by_slot, check_counts, clamped_counts, counts_missing
from graphrt.buckets import choose_bucket
from graphrt.cache import Prefilled, ReplayCache
from graphrt.capture.bucket_graphs import BucketGraph, BucketGraphs, CaptureProgress, Recipe
from graphrt.capture.buffers import fill, named_tensors
from graphrt.capture.cuda_graph import CudaGraph
from graphrt.capture.graph import Graph
from graphrt.capture.inspect.contract import check_contract
from graphrt.capture.inspect.manifest import Manifest
from graphrt.capture.inspect.read import inspect_graph
from graphrt.capture.inspect.report import Report
from graphrt.capture.space import capture_space
from graphrt.config import RuntimeConfig
from graphrt.declared import cache_manifest, chain_contract, graph_manifest, has_own_kernels
from graphrt.errors import AcceptError, CaptureError, ConfigError, sentence
from graphrt.host_queue import HostQueue
from graphrt.kernels.chain import BoundChain, accept_counts
from graphrt.kernels.links import linked_stages
from graphrt.seeds import slot_seed
from graphrt.slots import SlotTable
from graphrt.step import Step

Counts: TypeAlias = Mapping[int, int] | Sequence[int] | Tensor


@dataclass(slots=True)
class _Bound:
    """What a graph of one (bucket, T) works on: the bound chain and the step's static buffers."""

    chain: BoundChain
    buffers: Any
    tensors: Mapping[str, Tensor]
    manifest: Manifest
    launch: Callable[[], None] = field(default=lambda: None)


class DecodeRuntime:
    """The replay method's decode loop at static shapes: one captured graph per (bucket, T).

    Every tensor is allocated in the constructor (`ReplayCache`) or in `capture` (the step's static
    buffers); a launch allocates nothing. Work is enqueued on the caller's current stream. All
    calls of one runtime must come from one thread, on streams ordered one after the other.

        with DecodeRuntime(config) as runtime:
            runtime.capture(step)
            slot = runtime.admit(prefilled)
            while decoding:
                out = runtime.launch([slot], input_ids=ids)
                runtime.accept({slot: verify(out)})
            runtime.release(slot)

    A count outside 0 … last T that the device found when committing was clamped there. The next
    of admit, launch, accept, release and check raises AcceptError for it, before doing anything
    else; the same call made again goes through.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        """Allocate the caches. Raises MemoryPlanError, allocating nothing, if they do not fit."""
        self.config = config
        self.cache = ReplayCache(config)
        self._slots = SlotTable(config.slots)
        self._admissions = 0
        self._space = capture_space(config.device)
        self._graphs: BucketGraphs[_Bound] = BucketGraphs(self._space)
        self._slot_ids = {
            bucket: torch.full((bucket,), -1, dtype=torch.int32, device=config.device)
            for bucket in config.buckets
        }
        self._rows_in: dict[int, list[int]] = {bucket: [] for bucket in config.buckets}
        self._row_queues = {bucket: self._row_queue(bucket) for bucket in config.buckets}
        self._accept_queue = HostQueue(
            self._space, config.device, 2 * config.slots, self._accept_pairs, idle=-1
        )
        self._last: _Bound | None = None
        self._last_rows: list[int] = []
        self._closed = False
        # Host memory that the device writes: reading it costs no synchronisation.
        self._clamped = self.cache.cursors.clamped.numpy()

    @property
    def accepted(self) -> Tensor:
        """(slots,) int32 on the device: how many tokens of its last launch each slot keeps.

        `accept` writes it; so may the caller, or a kernel of the caller's, in stream order. The
        slot's next launch commits it and resets it to 0: a forgotten write commits nothing.
        """
        return self.cache.cursors.accepted

    @property
    def capture_seconds(self) -> float:
        """Seconds that capturing took, warm-up included."""
        return self._graphs.seconds

    # --- capture -----------------------------------------------------------------------------

    def capture(
        self,
        step: Step,
        *,
        progress: Callable[[CaptureProgress], object] | None = None,
        check: bool = True,
    ) -> None:
        """Capture ``step`` for every bucket and T of the configuration, largest first.

        Each is run once before, with padding rows alone, so that no slot is touched. ``progress``
        is called after each graph. A later capture replaces an earlier one. All or nothing: on
        CaptureError, which names the cause, the runtime is as it was before.

        check: hold every graph to what the runtime states of it (`graphrt.declared`): so many
        kernels a layer, programmatic links where they were asked for, no allocations, and for a
        step that declares its weights no pointer into anything else. ContractError says what is
        not so. Recorded calls, on the CPU, have nothing to check.
        """
        self._require_open()
        shared = cache_manifest(self.cache, step)

        def build(bucket: int, tokens: int) -> Recipe[_Bound]:
            chain = BoundChain(
                self.cache, self._slot_ids[bucket], tokens, alone=not has_own_kernels(step)
            )
            buffers = step.buffers(bucket, tokens)
            tensors = named_tensors(buffers)
            manifest = graph_manifest(shared, step, self._slot_ids[bucket], tensors)
            bound = _Bound(chain, buffers, tensors, manifest)

            def run() -> None:
                chain.advance()
                step(chain, buffers)

            def hold(graph: Graph) -> None:
                if check and isinstance(graph, CudaGraph):
                    contract = chain_contract(chain, self.config.layers, step)
                    check_contract(graph, contract, chain.compiled, manifest.declared())

            return Recipe(run=run, value=bound, keep=lambda: chain.compiled, check=hold)

        rows_before = dict(self._rows_in)
        for bucket in rows_before:
            self._write_rows(bucket, [])
        graphs: BucketGraphs[_Bound] = BucketGraphs(self._space)
        try:
            graphs.capture(self.config.buckets, self.config.launch_tokens, build, progress)
        except BaseException:
            for bucket, rows in rows_before.items():
                self._write_rows(bucket, rows)
            raise
        for captured in graphs:
            captured.value.launch = captured.graph.launch
        self._last = None
        self._graphs.close()
        self._graphs = graphs

    def buffers(self, bucket: int, tokens: int | None = None) -> Any:
        """Return the static buffers of a captured (bucket, T), T by default the largest.

        Raises CaptureError for one that was not captured.
        """
        return self._graphs[bucket, self._tokens_of(tokens)].value.buffers

    @property
    def captured(self) -> Sequence[BucketGraph[Any]]:
        """The captured graphs, in the order of capture, for reading."""
        return tuple(self._graphs)

    def slot_ids(self, bucket: int) -> Tensor:
        """Return the (bucket,) int32 tensor that names each row's slot, for reading."""
        return self._slot_ids[bucket]

    def manifest(self, bucket: int, tokens: int | None = None) -> Manifest:
        """Return the buffers that the graph of a captured (bucket, T) may point at, by name."""
        return self._graphs[bucket, self._tokens_of(tokens)].value.manifest

    def inspect(self, bucket: int, tokens: int | None = None) -> Report:
        """Return what the graph of a captured (bucket, T) holds, its links audited.

        Raises CaptureError for one that was not captured, and on the CPU, where calls are recorded
        and there is no graph to read.
        """
        captured = self._graphs[bucket, self._tokens_of(tokens)]
        chain = captured.value.chain
        return inspect_graph(
            captured.graph,
            captured.value.manifest,
            name=captured.graph.name,
            stages=chain.stages,
            linked=linked_stages(chain.links, chain.stages),
        )

    # --- slots -------------------------------------------------------------------------------

    def admit(self, prefilled: Prefilled | None = None, *, seed: int | None = None) -> int:
        """Return a slot for a new request, empty or as ``prefilled`` left it.

        seed: what the slot's ``rand_seed`` starts from; default derived from the configuration's
        seed and the number of admissions so far. Nothing that the slot held before reaches the
        new request. Raises SlotError when every slot is taken, ConfigError for tensors of another
        shape; no slot is taken then.
        """
        self._require_open()
        self.check()
        if seed is not None and not 0 <= seed < 2**63:
            raise ConfigError(
                sentence("seed", seed, "must be 0 … 2**63 - 1", "take it modulo 2**63")
            )
        slot = self._slots.take()
        try:
            if seed is None:
                seed = slot_seed(self.config.seed, self._admissions)
            self.cache.admit(slot, prefilled, seed)
        except BaseException:
            self._slots.give_back(slot)
            raise
        self._admissions += 1
        return slot

    def release(self, slot: int) -> None:
        """Give ``slot`` back. Raises SlotError if it is not admitted."""
        self._require_open()
        self.check()
        self._slots.give_back(slot)
        if slot in self._last_rows:
            self._last = None  # its rows name a slot that is no longer theirs

    # --- the loop ----------------------------------------------------------------------------

    def launch(self, slots: Sequence[int], *, tokens: int | None = None, **inputs: Any) -> Any:
        """Launch one step for ``slots``, a row each in this order, and return the static buffers.

        The bucket is the smallest that holds the rows; its other rows are padding. tokens: T, one
        of the configuration's ``launch_tokens``, by default the largest. inputs: each is copied
        into the first ``len(slots)`` rows of the static buffer it names. The buffers returned are
        the runtime's own: the results of this launch until the next one of the same (bucket, T).

        Raises SlotError for a slot out of range, not admitted or named twice, and for more rows
        than the largest bucket; ConfigError for an input that does not fit; CaptureError for a T
        that was not captured; AcceptError for a count clamped before. Nothing is launched then.
        """
        if self._clamped[-1]:
            self.check()
        rows = slots if type(slots) is list else list(slots)
        tokens = self._tokens_of(tokens)
        bound = self._last
        if bound is not None and rows == self._last_rows and tokens == bound.chain.tokens:
            if inputs:
                fill(bound.tensors, len(rows), inputs)
        else:
            bound = self._bind(list(rows), tokens, inputs)
        bound.launch()
        return bound.buffers

    def accept(self, counts: Counts) -> None:
        """Say how many tokens of its last launch each slot keeps, 0 … T, before its next launch.

        counts: a mapping from slot to count; a sequence, in the order of the last launch's rows;
        or an int32 tensor on the device in that order, of those rows or the whole bucket's, which
        the host does not look at. Enqueued on the current stream, without waiting. Raises
        AcceptError for a count outside its slot's last launch and SlotError for a slot that is not
        admitted; nothing is written then.
        """
        self._require_open()
        self.check()
        if isinstance(counts, Tensor):
            bound, rows = self._last_launch()
            if counts.ndim == 1 and len(counts) < len(rows):
                raise AcceptError(counts_missing(len(counts), len(rows)))
            bound.chain.accept(counts)
            return
        if not isinstance(counts, Mapping):
            counts = by_slot(counts, self._last_launch()[1])
        check_counts(counts, self._slots)
        unused = [-1] * (self.config.slots - len(counts))
        self._accept_queue.send([*counts, *unused, *counts.values(), *unused])

    def check(self) -> None:
        """Raise AcceptError if the device clamped a count since the last look. Does not wait."""
        if self._clamped[-1]:
            raise AcceptError(clamped_counts(self._clamped))

    # --- life --------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the graphs. The caches stay readable; launching is over. Again does nothing."""
        self._closed = True
        self._last = None
        self._graphs.close()
        for queue in (self._accept_queue, *self._row_queues.values()):
            queue.close()

    def __enter__(self) -> DecodeRuntime:
        """Return the runtime itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the runtime."""
        self.close()

    def _tokens_of(self, tokens: int | None) -> int:
        return self.config.tokens if tokens is None else tokens

    def _require_open(self) -> None:
        if self._closed:
            raise CaptureError(
                sentence("runtime", "closed", "its graphs are gone", "make a new DecodeRuntime")
            )

    def _bind(self, rows: list[int], tokens: int, inputs: Mapping[str, Any]) -> _Bound:
        """Check and fill a launch of other rows or another T than the last; make it the last."""
        self._require_open()
        self._slots.check(rows)
        bucket = choose_bucket(len(rows), self.config.buckets)
        bound = self._graphs[bucket, tokens].value
        if inputs:
            fill(bound.tensors, len(rows), inputs)
        if self._rows_in[bucket] != rows:
            self._write_rows(bucket, rows)
        self._slots.launched(rows, tokens)
        self._last, self._last_rows = bound, rows
        return bound

    def _write_rows(self, bucket: int, rows: list[int]) -> None:
        self._row_queues[bucket].send(rows + [-1] * (bucket - len(rows)))
        self._rows_in[bucket] = rows

    def _row_queue(self, bucket: int) -> HostQueue:
        slot_ids = self._slot_ids[bucket]

        def read(rows: Tensor) -> None:
            slot_ids.copy_(rows, non_blocking=True)

        return HostQueue(self._space, self.config.device, bucket, read, idle=-1)

    def _accept_pairs(self, pairs: Tensor) -> object:
        """Scatter counts: ``pairs`` holds a slot or -1 for every slot, then a count for each."""
        slots, counts = pairs.view(2, -1)
        return accept_counts(slots, counts, self.accepted)

    def _last_launch(self) -> tuple[_Bound, list[int]]:
        if self._last is None:
            raise AcceptError(
                sentence(
                    "counts",
                    "by row",
                    "there is no launch whose rows they could belong to, or a slot of it is gone",
                    "pass a mapping from slot to count",
                )
            )
        return self._last, self._last_rows
