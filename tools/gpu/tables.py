# SPDX-License-Identifier: Apache-2.0
"""Tables of a report: rendered from its JSON, for a terminal or for Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A header and rows of as many cells."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def as_text(self) -> str:
        """Return aligned columns."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def as_markdown(self) -> str:
        """Return a Markdown table; every column but the first is aligned right."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        return "\n".join(f"| {' | '.join(line)} |" for line in [self.header, rule, *self.rows])


def summary(report: Report) -> Table:
    """Return what each section found, in a line."""
    rows = []
    for name, found in report["sections"].items():
        if not found["passed"]:
            line = " ".join(found["failures"][0].split())[:100]
        else:
            line = _LINES[name](found)
        outcome = "passed" if found["passed"] else "FAILED"
        rows.append((name, outcome, f"{found['seconds']:.0f} s", line))
    return Table(("section", "", "", "found"), tuple(rows))


def _of_many(timings: list[dict[str, Any]], layers: int) -> list[str]:
    """Return medians of microseconds a layer, cold and back to back, with PDL and without."""
    cells = []
    for name in ("cold_us", "back_to_back_us"):
        found = {
            pdl: [t[name] / layers for t in timings if t["pdl"] is pdl] for pdl in (True, False)
        }
        cells.append(
            " / ".join(f"{statistics.median(us):.2f}" if us else "-" for us in found.values())
        )
    return cells


def device_time(report: Report) -> Table:
    """Return microseconds per layer by batch, with PDL on and off."""
    found = report["sections"]["device_time"]
    many = max(found["config"]["layers"])
    by_key = {(t["batch"], t["layers"], t["pdl"]): t for t in found["timings"]}
    rows = []
    for batch in sorted({t["batch"] for t in found["timings"]}):
        cells = [str(batch)]
        for layers, name in ((many, "cold_us"), (many, "back_to_back_us"), (1, "back_to_back_us")):
            on, off = (by_key[batch, layers, pdl][name] / layers for pdl in (True, False))
            cells.append(f"{on:.2f} / {off:.2f}")
        rows.append(tuple(cells))
    for other in found.get("other_states", []):  # older reports have none
        name = f"{other['batch']}, {other['state_dtype']} to nearest"
        rows.append((name, *_of_many([other], many), "-"))
    for when in ("first", "beside"):
        empty = [t for t in found.get("empty", []) if t.get("when", "first") in (when, "later")]
        if any(t["pdl"] for t in empty):
            name = "1, empty kernels" + (", first in a process" if when == "first" else "")
            rows.append((name, *_of_many(empty, many), "-"))
    return Table(
        (
            "batch",
            f"µs per layer of {many}, cold L2, PDL on / off",
            "back to back",
            "one-layer graph",
        ),
        tuple(rows),
    )


def projected(report: Report) -> Table:
    """Return microseconds a layer between projections by batch and state, launched either way."""
    rows = []
    for t in report["sections"]["projected"]["timings"]:
        ways = [t["as the step says"], t["as a dependent"]]
        names = ("cold_us", "back_to_back_us")
        cells = [" / ".join(f"{way[name]:.2f}" for way in ways) for name in names]
        state = f"{t['state_dtype']} {t['rounding']}"
        rows.append((str(t["batch"]), state, str(len(t["kernels"])), *cells))
    return Table(
        ("batch", "state", "kernels", "µs per layer, cold L2, as the step says / linked", "warm"),
        tuple(rows),
    )


def host(report: Report) -> Table:
    """Return what a call costs the host, in microseconds, by the graph's kernel nodes."""
    graphs = report["sections"]["host"]["graphs"]

    def cell(graph: Report, name: str) -> str:
        return " / ".join(f"{graph[p][name] / 1000:.2f}" for p in ("p10_ns", "p50_ns", "p90_ns"))

    return Table(
        (
            "host µs per call, p10 / p50 / p90",
            *(f"{graph['kernel_nodes']} nodes" for graph in graphs),
        ),
        tuple((name, *(cell(graph, name) for graph in graphs)) for name in graphs[0]["p50_ns"]),
    )


def demo(report: Report) -> Table:
    """Return tokens per second of the model in the package."""
    return Table(
        ("batch", "T", "tokens per launch", "tokens per second"),
        tuple(
            (
                str(run["batch"]),
                str(run["tokens"]),
                f"{run['tokens_per_launch']:.2f}",
                f"{run['tokens_per_second']:.0f}",
            )
            for run in report["sections"]["demo"]["runs"]
        ),
    )


TABLES: dict[str, Callable[[Report], Table]] = {
    "summary": summary,
    "device_time": device_time,
    "projected": projected,
    "host": host,
    "demo": demo,
}


def as_text(report: Report) -> str:
    """Return every table whose section passed or at least has its figures, the summary last."""
    blocks = []
    for name, table in TABLES.items():
        if name == "summary":
            continue
        try:
            blocks.append(table(report).as_text())
        except (KeyError, IndexError, ValueError):  # that section failed: the summary says so
            continue
    return "\n\n".join([*blocks, summary(report).as_text()])


def _soak(found: dict[str, Any]) -> str:
    growth = found["memory_growth"]
    device = {name: growth[name] for name in growth if name != "host_resident_bytes"}
    memory = f", device memory grew by {max(device.values())} bytes" if device else ""
    return (
        f"{found['launches']} launches, {found['checks']} checked, largest error "
        f"{found['max_relative_error']:.1e}, {found['launches_per_second']:.0f} launches/s{memory}"
    )


def _eager(found: dict[str, Any]) -> str:
    return f"{found['graphs']} graphs, {found['launches']} launches, every bit the same"


def _links(found: dict[str, Any]) -> str:
    linked = sum(graph["programmatic_edges"] for graph in found["graphs"])
    return f"{len(found['graphs'])} graphs, {linked} programmatic links, the others full"


def _host(found: dict[str, Any]) -> str:
    costs = found["graphs"][0]["p50_ns"]
    against = f", replay {costs['replay'] / 1000:.2f}" if "replay" in costs else ""
    return f"graph.launch {costs['graph.launch'] / 1000:.2f} µs{against}"


def _device_time(found: dict[str, Any]) -> str:
    timing = found["timings"][0]
    return (
        f"{timing['cold_us'] / timing['layers']:.2f} µs a layer, cold, "
        f"{timing['layers']} layers, batch {timing['batch']}"
    )


def _projected(found: dict[str, Any]) -> str:
    first = found["timings"][0]
    ways = [first[way]["cold_us"] for way in ("as the step says", "as a dependent")]
    return "{:.2f} µs a layer and its projections, {:.2f} linked to them".format(*ways)


def _demo(found: dict[str, Any]) -> str:
    first = found["runs"][0]
    return f"{first['tokens_per_second']:.0f} tokens/s at batch 1, T 6 and T 1 agree"


def _sanitizer(found: dict[str, Any]) -> str:
    return "; ".join(f"{tool['tool']}: {tool['summary']}" for tool in found["tools"])


_LINES: dict[str, Callable[[dict[str, Any]], str]] = {
    "soak": _soak,
    "eager": _eager,
    "links": _links,
    "host": _host,
    "device_time": _device_time,
    "projected": _projected,
    "demo": _demo,
    "sanitizer": _sanitizer,
}
