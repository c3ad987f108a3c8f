# SPDX-License-Identifier: Apache-2.0
"""One code recorded twice on an H200 whose host became half as fast meanwhile, and such machines.

The two recordings were made one after the other in one process. Within the first, the loop in
Python went from 97 µs to 150 µs between its two cases; the second was made at 155 µs throughout.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphrt.latency.compare import Comparison, compare
from graphrt.latency.files import load
from graphrt.latency.quantities import Key
from graphrt.latency.recording import Recording
from graphrt.latency.report import as_json
from graphrt.latency.verdict import Verdict
from tests.helpers.recordings import WHOLE, recording, samples

HOST_LOOP = Key("host_loop")
RECORDINGS = Path(__file__).parent / "recordings"
SMALL, LARGE = "batch 8, T 6", "batch 64, T 6"


def recordings() -> tuple[Recording, Recording]:
    old, new = (load(RECORDINGS / f"h200-host-slowed-{number}.json") for number in (1, 2))
    return old, new


def reason_of(found: Comparison, case: str, quantity: str) -> tuple[Verdict, str]:
    (result,) = (
        r for r in found.series if (r.case, r.key, r.quantile) == (case, Key(quantity), 0.5)
    )
    return result.verdict, result.decision.reason


@pytest.mark.parametrize("swapped", [False, True])
def test_a_host_that_became_slower_is_not_called_a_loss(swapped: bool) -> None:
    old, new = recordings()
    found = compare(new, old) if swapped else compare(old, new)
    verdicts = {result.verdict for result in found.series}
    assert verdicts == {Verdict.SAME, Verdict.UNDECIDED} and found.passed


@pytest.mark.parametrize("quantity", ["host_launch", "step", "capture"])
def test_the_yardstick_that_moved_is_named_with_how_far(quantity: str) -> None:
    verdict, reason = reason_of(compare(*recordings()), SMALL, quantity)
    assert verdict is Verdict.UNDECIDED
    moved = re.match(r"the machine itself moved: host_loop by \+(\d+\.\d)% \[", reason)
    assert moved is not None and 45 <= float(moved[1]) <= 70, reason


def test_the_case_beside_which_nothing_moved_is_decided() -> None:
    found = compare(*recordings())
    for quantity in ("host_launch", "step", "capture", "gpu_span", "marginal"):
        verdict, reason = reason_of(found, LARGE, quantity)
        assert verdict is Verdict.SAME, (quantity, reason)


def test_without_the_yardsticks_it_would_have_been_a_false_alarm() -> None:
    """The fixture is what it is said to be: were this to fail, the tests above see nothing."""
    old, new = recordings()
    blind = [
        replace(side, cases={n: replace(c, yardsticks={}) for n, c in side.cases.items()})
        for side in (old, new)
    ]
    found = compare(*blind)
    assert {r.key.quantity for r in found.moved(SMALL)} == {"host_launch", "step", "capture"}


def host_pair(loss: float, loop_us: float, loop_noise: float = 0.002) -> Comparison:
    random = np.random.default_rng(0)
    key = Key("host_launch")
    old = recording({key: samples(random, 10.0)}, run="a")
    new = recording({key: samples(random, 10.0 * (1 + loss))}, run="b", seed=1)
    for side, us in ((old, 50.0), (new, loop_us)):
        side.cases["case"].yardsticks[HOST_LOOP] = samples(
            random, us, size=4, luck=loop_noise
        ).tolist()
    return compare(old, new)


@pytest.mark.parametrize(
    ("loss", "loop_us", "noise", "verdict", "said"),
    [
        (0.2, 50.0, 0.002, Verdict.SLOWER, "at least 5.0%"),
        (0.2, 60.0, 0.002, Verdict.UNDECIDED, "itself moved: host_loop by +19.9%"),
        (0.5, 55.0, 0.002, Verdict.SLOWER, "at least 5.0%"),
        (1.0, 80.0, 0.002, Verdict.UNDECIDED, "itself moved: host_loop by +59.9%"),
        (2.0, 80.0, 0.002, Verdict.SLOWER, "at least 5.0%"),
        (0.0, 60.0, 0.002, Verdict.UNDECIDED, "itself moved: host_loop by +19.9%"),
        (-0.2, 40.0, 0.002, Verdict.UNDECIDED, "itself moved: host_loop by -20."),
        (0.2, 50.0, 0.15, Verdict.UNDECIDED, "may have moved itself: host_loop by"),
        (0.0, 50.0, 0.15, Verdict.SAME, "within 5.0%"),
    ],
)
def test_a_verdict_needs_a_machine_that_is_known(
    loss: float, loop_us: float, noise: float, verdict: Verdict, said: str
) -> None:
    (result,) = host_pair(loss, loop_us, noise).series
    assert result.verdict is verdict and said in result.decision.reason


def test_device_times_are_not_held_against_the_host() -> None:
    random = np.random.default_rng(0)
    old = recording({WHOLE: samples(random, 10.0)}, run="a")
    new = recording({WHOLE: samples(random, 11.0)}, run="b", seed=1)
    new.cases["case"].yardsticks[HOST_LOOP] = samples(random, 100.0, size=4).tolist()
    assert compare(old, new).verdict is Verdict.SLOWER


def test_drift_within_a_recording_is_seen_and_told() -> None:
    old, new = recordings()
    loops = new.cases[SMALL].yardsticks[HOST_LOOP]
    steady = as_json(compare(old, new))["machine_noise"]["host_loop"]
    for build, factor in zip(loops, (1.0, 1.1, 1.2, 1.4, 1.6), strict=True):
        build[:] = [[us * factor for us in block] for block in build]
    assert as_json(compare(old, new))["machine_noise"]["host_loop"] > steady + 0.15
