# SPDX-License-Identifier: Apache-2.0
"""A comparison as JSON has it, and as sentences for an exception or a test's failure."""

from __future__ import annotations

import math
from typing import Any

from graphrt.latency.compare import Comparison, SeriesResult
from graphrt.latency.verdict import Verdict

KIND = "graphrt latency comparison"
SCHEMA = 1


def as_json(found: Comparison) -> dict[str, Any]:
    """Return the comparison without the samples it stands on."""
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "old": found.old.label,
        "new": found.new.label,
        "paired": found.paired,
        "verdict": found.verdict,
        "passed": found.passed,
        "machine_differences": found.differences,
        "machine_noise": {
            str(key): None if math.isinf(noise) else round(noise, 5)
            for key, noise in found.noise.items()
        },
        "series": [_series(result) for result in found.series],
        "why": found.why,
        "failed": found.failed,
        "unsafe": found.unsafe,
        "ask_gate": sorted({result.case for result in found.unpredicted}),
        "gates": found.gates,
    }


def _series(result: SeriesResult) -> dict[str, Any]:
    change = result.change
    told: dict[str, Any] = {
        "case": result.case,
        "quantity": result.key.quantity,
        "part": result.key.part,
        "quantile": result.quantile,
        "verdict": result.verdict,
        "reason": result.decision.reason,
        "more_samples": result.decision.more_samples,
        "minimum_effect": round(result.minimum_effect, 5),
    }
    if change is not None:
        told |= {
            "old_us": round(change.old_us, 4),
            "new_us": round(change.new_us, 4),
            "ratio": round(change.ratio, 5),
            "ratio_low": round(math.exp(change.low), 5),
            "ratio_high": round(math.exp(change.high), 5),
            "p": change.p,
            "adjusted_p": result.adjusted_p,
            "build_half_width": round(change.build_half_width, 5),
        }
    return told


def sentences(found: Comparison) -> list[str]:
    """Return what a person must know to act: what moved, by how much, why, and what to do."""
    lines = []
    for case in dict.fromkeys(result.case for result in found.series):
        moved = found.moved(case)
        lines += [f"{case}: {one(result)}" for result in moved]
        lines += [f"    {reason}" for reason in found.why.get(case, [])]
    lines += [f"{case}: not compared, {reason}" for case, reason in found.failed.items()]
    lines += gate_sentences(found)
    return lines


def one(result: SeriesResult) -> str:
    """Return one series in a line."""
    change = result.change
    if change is None:
        return f"{result.name} {result.verdict}: {result.decision.reason}"
    text = (
        f"{result.name} {result.verdict} {change.ratio - 1:+.1%} "
        f"[{math.expm1(change.low):+.1%}, {math.expm1(change.high):+.1%}], "
        f"{change.old_us:.2f} → {change.new_us:.2f} µs, p {result.adjusted_p:.1g}"
    )
    if result.verdict is Verdict.UNDECIDED:
        text += f"; {result.decision.reason}"
        if result.decision.more_samples:
            text += f"; about {result.decision.more_samples} more samples a side would settle it"
    return text


def gate_sentences(found: Comparison) -> list[str]:
    """Return a sentence a case that is unsafe, and one that is faster than predicted."""
    lines = []
    for case, races in found.unsafe.items():
        faster = any(result.verdict is Verdict.FASTER for result in found.moved(case))
        lines += [f"{case}: {'faster and ' if faster else ''}unsafe: {race}" for race in races]
    for case in dict.fromkeys(result.case for result in found.unpredicted):
        gate = found.gates.get(case)
        if gate is None:
            gate = "run the correctness gate again on the new side before believing it"
        else:
            gate = f"the correctness gate was run again: {gate}"
        lines.append(f"{case}: faster than predicted, as a skipped wait would be; {gate}")
    return lines
