# SPDX-License-Identifier: Apache-2.0
"""Tables of a report that ``graphrt bench --out`` wrote."""

from __future__ import annotations

import math
from typing import Any

from graphrt.bench.peers import PEERS
from tools.gpu.tables import Report, Table

RING = "flashinfer_ring"
Cells = dict[int, dict[str, dict[str, Any]]]


def cells(report: Report, state: str, **where: Any) -> Cells:
    """Return the times of the report's cases with that state dtype, by batch; in batch order.

    where: other sizes the case must have; without them, those of the report's first case.
    """
    first = report["cases"][0]["case"]
    keys = ("heads", "head_dim", "state_dim", "groups", "tokens", "window", "history", "pdl")
    wanted = {key: where.get(key, first[key]) for key in keys} | {"state_dtype": state}
    found = {
        one["case"]["batch"]: one["times"]
        for one in report["cases"]
        if not one["failed"] and all(one["case"][key] == value for key, value in wanted.items())
    }
    return dict(sorted(found.items()))


def pair(report: Report) -> Table:
    """Return precompute + state update beside peer and yardsticks, by state dtype and batch."""
    rows = []
    for state in ("fp16", "fp32"):
        for batch, times in cells(report, state).items():
            ours, peer = times["pair"], times.get(RING)
            rows.append(
                (
                    f"{state} {batch}",
                    _us(ours),
                    _us(peer),
                    f"{peer['us'] / ours['us']:.2f}" if peer else "-",
                    _us(times.get("snapshots")),
                    _us(times.get("read")),
                    _us(times.get("moves")),
                    f"{ours['floor_us']:.2f}",
                )
            )
    header = ("state, batch", "graphrt", "FlashInfer ring", "FlashInfer / graphrt")
    return Table((*header, "snapshots", "bare read", "bytes moved", "floor"), tuple(rows))


def beside(report: Report) -> Table:
    """Return precompute + state update and the peer by batch, a column a state dtype."""
    by_state = [cells(report, state) for state in ("fp16", "fp32")]
    rows = [
        (str(batch), *(_beside(times[batch]) if batch in times else "-" for times in by_state))
        for batch in sorted(set().union(*by_state))
    ]
    return Table(("batch", "fp16 state: graphrt / FlashInfer", "fp32 state"), tuple(rows))


def stages(report: Report) -> Table:
    """Return the stages, the chain and a whole launch, by batch, for an fp16 state."""
    names = ("advance", "conv1d", "precompute", "state_update", "pair", "chain", "launch", "empty")
    rows = [
        (str(batch), *(_us(times.get(name)) for name in names))
        for batch, times in cells(report, "fp16").items()
    ]
    return Table(("batch", *(name.replace("_", " ") for name in names)), tuple(rows))


def tail(report: Report) -> Table:
    """Return the pair where every slot flushes and where none does, by state dtype and batch."""
    rows = [
        (
            f"{state} {batch}",
            history,
            *(_us(times.get(name)) for name in ("state_update", "pair", RING, "moves")),
        )
        for state in ("fp16", "fp32")
        for history in ("all-flush", "no-flush")
        for batch, times in cells(report, state, history=history).items()
    ]
    names = ("state update", "pair", "FlashInfer ring", "bytes moved")
    return Table(("state, batch", "history", *names), tuple(rows))


def by_tokens(report: Report) -> Table:
    """Return precompute + state update beside every peer, by state dtype, T and batch."""
    numbers = sorted({one["case"]["tokens"] for one in report["cases"]})
    rows = [
        (
            f"{state} {tokens}",
            str(batch),
            _us(times["pair"]),
            *(_us(times.get(name)) for name in PEERS),
            _best_peer(times),
        )
        for state in ("fp16", "fp32")
        for tokens in numbers
        for batch, times in cells(report, state, tokens=tokens).items()
    ]
    names = ("FlashInfer ring", "FlashInfer snapshots", "Mamba's one token")
    return Table(("state, T", "batch", "graphrt", *names, "best peer / graphrt"), tuple(rows))


def geometric_mean(report: Report, state: str) -> float:
    """Return the mean ratio of the peer's time to ours over all batches."""
    ratios = [
        times[RING]["us"] / times["pair"]["us"]
        for times in cells(report, state).values()
        if RING in times
    ]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _beside(times: dict[str, Any]) -> str:
    return f"{_us(times['pair'])} / {_us(times.get(RING))}"


def _best_peer(times: dict[str, Any]) -> str:
    found = [times[name]["us"] for name in PEERS if name in times]
    return f"{min(found) / times['pair']['us']:.2f}" if found else "-"


def _us(timing: dict[str, Any] | None) -> str:
    return "-" if timing is None else f"{timing['us']:.2f}"


TABLES = {
    "pair": pair,
    "beside": beside,
    "stages": stages,
    "tail": tail,
    "tokens": by_tokens,
}
