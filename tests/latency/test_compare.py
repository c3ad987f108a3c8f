# SPDX-License-Identifier: Apache-2.0
"""Comparisons of recordings whose truth is known: verdicts, causes, refusals."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphrt.latency.compare import Comparison, compare
from graphrt.latency.effects import MinimumEffects
from graphrt.latency.errors import ComparisonRefused
from graphrt.latency.quantities import Key
from graphrt.latency.recording import Recording
from graphrt.latency.report import as_json, sentences
from graphrt.latency.verdict import Verdict
from tests.helpers.recordings import OTHER, STAGE, WHOLE, recording, samples


def pair(stage_loss: float = 0.0, run: str = "run", **more: Any) -> tuple[Recording, Recording]:
    """Return two recordings; the new one's state update, a part of the whole, is slower."""
    random = np.random.default_rng(0)

    def side(loss: float, **told: Any) -> Recording:
        series = {
            WHOLE: samples(random, 10 + 6 * loss),
            STAGE: samples(random, 6 * (1 + loss)),
            OTHER: samples(random, 4.0),
        }
        return recording(series, **told)

    return side(0.0, run="run"), side(stage_loss, label="new", run=run, seed=1, **more)


def verdict_of(found: Comparison, key: Key) -> Verdict:
    return next(r.verdict for r in found.series if r.key == key and r.quantile == 0.5)


@pytest.mark.parametrize("run", ["run", "another"])
def test_the_same_is_the_same_and_passes(run: str) -> None:
    found = compare(*pair(run=run))
    assert found.paired == (run == "run")
    assert found.verdict is Verdict.SAME and found.passed and not found.why


@pytest.mark.parametrize("run", ["run", "another"])
def test_a_slower_stage_is_named(run: str) -> None:
    found = compare(*pair(0.1, run=run))
    assert found.verdict is Verdict.SLOWER and not found.passed
    assert verdict_of(found, STAGE) is Verdict.SLOWER
    assert verdict_of(found, OTHER) is Verdict.SAME
    stage = r"stage: state_update \+0\.[56]\d µs, of the whole's \+0\.[56]\d µs"
    assert re.fullmatch(stage, found.why["case"][0])
    assert "nothing else that is recorded differs" in found.why["case"][-1]
    assert any(re.search(r"SLOWER \+(9|10)\.", line) for line in sentences(found))


def test_verdicts_do_not_depend_on_the_order() -> None:
    old, new = pair(0.1)
    there, back = compare(old, new), compare(new, old)
    mirror = {Verdict.SLOWER: Verdict.FASTER, Verdict.FASTER: Verdict.SLOWER}
    assert [mirror.get(r.verdict, r.verdict) for r in there.series] == [
        r.verdict for r in back.series
    ]


def test_a_gain_that_was_not_predicted_asks_for_the_gate() -> None:
    old, new = pair(-0.1)
    found = compare(old, new)
    assert found.verdict is Verdict.FASTER and not found.passed
    assert as_json(found)["ask_gate"] == ["case"]
    assert any("run the correctness gate again" in line for line in sentences(found))
    found.gates["case"] = "FAILED, y is wrong"
    assert not found.passed
    found.gates["case"] = "passed, largest error 1e-3"
    assert found.passed


def test_a_gain_that_was_predicted_does_not() -> None:
    assert compare(*pair(-0.1), predicted_gain=0.10).passed
    assert not compare(*pair(-0.1), predicted_gain=0.03).passed


FACTS = {
    "fingerprint": {"kernels": {"k": 1}, "programmatic": {"a -> b": 2}, "full": {}},
    "static": {"k": {"resources": {"registers": 64, "spill_loads": 0}}},
    "tuning": {"state_update": {"block_head_dim": 64}},
}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"fingerprint": {"kernels": {"k": 1}, "programmatic": {}, "full": {"a -> b": 2}}},
            "link lost: a -> b: 2 programmatic edges became 0",
        ),
        (
            {"fingerprint": FACTS["fingerprint"] | {"kernels": {"k": 1, "spin": 1}}},
            "graph: kernels spin: was absent, is 1",
        ),
        (
            {"static": {"k": {"resources": {"registers": 64, "spill_loads": 8}}}},
            "kernel: k: broken: resources spill_loads: was 0, is 8",
        ),
        (
            {"static": {"k": {"resources": {"registers": 96, "spill_loads": 0}}}},
            "kernel: k: changed: resources registers: was 64, is 96",
        ),
        (
            {"tuning": {"state_update": {"block_head_dim": 16}}},
            "tuning: state_update block_head_dim: was 64, is 16",
        ),
    ],
)
def test_what_else_changed_is_named(changed: dict[str, Any], sentence: str) -> None:
    old, new = pair(0.1)
    old.cases["case"].facts = FACTS
    new.cases["case"].facts = FACTS | changed
    assert sentence in compare(old, new).why["case"]


def test_versions_and_clocks_are_named() -> None:
    old, new = pair(0.1, run="another")
    new.conditions["torch"] = "2.13"
    new.conditions["commit"] = {"hash": "def", "dirty": True}
    new.clocks["after case"] = {"clocks.sm": "1200 MHz", "clocks_event_reasons.active": "0x04"}
    why = compare(old, new).why["case"]
    assert "version: torch: was 2.11, is 2.13" in why
    assert "version: commit: was abc, is def with changes" in why
    assert "clocks: clocks.sm: was unknown, is 1200 MHz" in why
    assert "clocks: throttled by: was nothing, is power cap" in why


@pytest.mark.parametrize(
    "edit",
    [
        lambda r: r.conditions["gpu"].update(name="H100"),
        lambda r: r.conditions["gpu"].update(driver_version="590"),
        lambda r: r.clocks["before"].update({"power.limit": "500 W"}),
        lambda r: r.settings.update(calls=64),
        lambda r: setattr(r, "device", "cpu"),
    ],
)
def test_other_machines_are_refused(edit: Any) -> None:
    old, new = pair(run="another")
    edit(new)
    with pytest.raises(ComparisonRefused, match=r"one GPU, driver and setting.*--across"):
        compare(old, new)


def test_across_machines_only_ratios_to_yardsticks_count() -> None:
    """A machine half as fast in everything: times double, ratios stay."""
    random = np.random.default_rng(0)
    old = recording({WHOLE: samples(random)}, run="a")
    slow = recording({WHOLE: samples(random, 20.0)}, run="b", gpu="other", copy_us=200.0)
    empty = slow.cases["case"].yardsticks[Key("marginal", "empty_chain")]
    slow.cases["case"].yardsticks[Key("marginal", "empty_chain")] = (2 * np.array(empty)).tolist()
    found = compare(old, slow, across=True)
    assert found.verdict is Verdict.SAME and found.differences
    slow.cases["case"].yardsticks[Key("marginal", "empty_chain")] = empty
    disagreeing = compare(old, slow, across=True)
    assert disagreeing.verdict is Verdict.UNDECIDED
    assert "the yardsticks disagree" in disagreeing.series[0].decision.reason


def test_a_machine_that_moved_itself_decides_nothing() -> None:
    old, new = pair(0.1, run="another", copy_us=110.0)
    found = compare(old, new)
    assert found.verdict is Verdict.UNDECIDED and found.passed
    assert "the machine itself moved: copy by +10" in found.series[0].decision.reason


def test_a_loss_beyond_what_the_machine_moved_is_called() -> None:
    old, new = pair(0.5, run="another", copy_us=105.0)
    assert verdict_of(compare(old, new), STAGE) is Verdict.SLOWER


def test_cases_that_cannot_be_compared_say_why() -> None:
    old, new = pair(run="another")
    new.cases["case"].what = {"batch": 2}
    new.cases["more"] = replace(new.cases["case"], name="more")
    found = compare(old, new)
    assert found.failed == {
        "case": "its sizes differ: batch",
        "more": "the old recording does not have it",
    }
    assert not found.passed and not found.series


def test_the_minimum_effect_is_the_users() -> None:
    old, new = pair(0.1)
    effects = MinimumEffects.parse(["0.2"])
    assert compare(old, new, effects=effects).verdict is Verdict.SAME
    effects = MinimumEffects.parse(["0.2", "marginal=0.03"])
    assert compare(old, new, effects=effects).verdict is Verdict.SLOWER
