# SPDX-License-Identifier: Apache-2.0
"""Two sides compared as they are recorded, in turns; the gate run again on a surprising gain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from graphrt.errors import GraphrtError
from graphrt.latency.budget import Budget
from graphrt.latency.compare import Comparison, compare
from graphrt.latency.effects import MinimumEffects
from graphrt.latency.interleave import Say, Side
from graphrt.latency.recorder import record


def compare_live(
    sides: tuple[Side, Side],
    cases: Sequence[str],
    device: torch.device,
    budget: Budget,
    *,
    effects: MinimumEffects | None = None,
    predicted_gain: float = 0.0,
    commit: str | None = None,
    save_to: Sequence[Path | None] = (),
    each_conditions: Sequence[dict[str, Any]] = (),
    say: Say = lambda line: None,
) -> Comparison:
    """Record both ``sides``, old then new, in turns and compare them.

    Where the new side gains more than ``predicted_gain``, its correctness gate is run again on a
    new build, and what it said is in ``gates``. The arguments are those of `record`.
    """
    recordings = record(
        sides,
        cases,
        device,
        budget,
        commit=commit,
        save_to=save_to,
        each_conditions=each_conditions,
        say=say,
    )
    found = compare(*recordings, effects=effects, predicted_gain=predicted_gain)
    ask_gates(found, sides[1], say)
    return found


def ask_gates(found: Comparison, new: Side, say: Say = lambda line: None) -> None:
    """Run the gate again for every case of ``found`` that gained more than was predicted."""
    for case in dict.fromkeys(result.case for result in found.unpredicted):
        say(f"{case} is faster than predicted: the gate again …")
        found.gates[case] = run_gate(new, case)


def run_gate(side: Side, case: str) -> str:
    """Make a new build of ``case`` and return what its gate says: ``passed …`` or ``FAILED …``."""
    try:
        side.build(case)
        said = side.check()
        return said if said == "no gate" else f"passed, {said}"
    except (GraphrtError, RuntimeError) as error:
        return f"FAILED, {error}"
    finally:
        side.release()
