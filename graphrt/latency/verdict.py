# SPDX-License-Identifier: Apache-2.0
"""What a change means: FASTER, SLOWER, SAME or UNDECIDED, by one rule for both directions.

SLOWER, FASTER   the interval excludes "no change", the rank test agrees, and the change is at
                 least the minimum effect
SAME             the whole interval lies within the minimum effect
UNDECIDED        neither
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from graphrt.latency.change import CONFIDENCE, Change

_ALPHA = 1 - CONFIDENCE
# Beyond this many times the samples there are, more of them are no plan.
_MOST_TIMES = 50.0


class Verdict(enum.StrEnum):
    """The four answers."""

    FASTER = "FASTER"
    SLOWER = "SLOWER"
    SAME = "SAME"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and its reason. more_samples: what would settle an UNDECIDED; None: no number."""

    verdict: Verdict
    reason: str
    more_samples: int | None = None


def decide(change: Change | None, adjusted_p: float, minimum_effect: float) -> Decision:
    """Return the decision about ``change``; ``adjusted_p`` is its p among all series looked at.

    minimum_effect: a share, 0.03 for 3 %; slower by it and faster by it are mirror images.
    """
    if change is None:
        return Decision(Verdict.UNDECIDED, "a side's time is not above zero: nothing to divide by")
    least = math.log1p(minimum_effect)
    moved = change.low > 0 or change.high < 0
    large = abs(change.log_ratio) >= least
    if moved and large and adjusted_p <= _ALPHA:
        verdict = Verdict.SLOWER if change.log_ratio > 0 else Verdict.FASTER
        return Decision(verdict, f"at least {minimum_effect:.1%} and clear of no change")
    if -least <= change.low and change.high <= least:
        return Decision(Verdict.SAME, f"within {minimum_effect:.1%}")
    return _undecided(change, adjusted_p, least, minimum_effect)


def _undecided(change: Change, adjusted_p: float, least: float, minimum_effect: float) -> Decision:
    size = abs(change.log_ratio)
    large = size >= least
    # The interval must become narrower than the way to the nearest line it must not cross.
    room = size if large else least - size
    times = (change.half_width / max(room, 1e-12)) ** 2
    if large and adjusted_p > _ALPHA:
        times = max(times, 1.5)
    noise = f"the interval is ±{change.half_width:.1%} wide"
    if change.build_half_width >= 0.99 * change.half_width:
        noise += ", by the luck of builds (raise --builds)"
    if times > _MOST_TIMES:
        if change.half_width <= least:
            why = f"the change lies on the line of {minimum_effect:.1%}; choose another minimum"
        else:
            why = f"{noise}: too noisy for {minimum_effect:.1%}; quieten the machine"
        return Decision(Verdict.UNDECIDED, why)
    more = math.ceil(change.blocks * max(times - 1, 1 / change.blocks)) * change.block_samples
    why = f"{noise}, to tell {minimum_effect:.1%} from none it must be ±{room:.1%}"
    return Decision(Verdict.UNDECIDED, why, more)
