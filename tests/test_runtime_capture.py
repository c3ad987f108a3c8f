# SPDX-License-Identifier: Apache-2.0
"""DecodeRuntime.capture on the CPU: order, repetition, and captures that fail."""

from __future__ import annotations

import gc
import random
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch

from graphrt import (
    BoundChain,
    CaptureError,
    ChainStep,
    DecodeRuntime,
)
from graphrt.capture.graph import GraphState
from graphrt.kernels.tuning import FusedLaunch
from tests.helpers.checks import check_same_bits
from tests.helpers.links import ALL, INNER
from tests.helpers.runtimes import (
    CASE,
    admit,
    cached,
    captured,
    chain_step,
    check_all_same_bits,
    copies,
    decode,
    draw,
    nothing_written,
    restore,
    static_tensors,
)

PAIRS = [(4, 3), (4, 1), (2, 3), (2, 1), (1, 3), (1, 1)]  # in the order of capture


class Failing(ChainStep):
    """A step that fails for one (bucket, T), when its buffers are asked for or when it runs."""

    def __init__(self, runtime: DecodeRuntime, at: tuple[int, int], fails: str) -> None:
        weights = chain_step(CASE, runtime.config)._weights
        super().__init__(runtime.config, weights, gated=True)
        self.at, self.fails = at, fails
        self.made: list[tuple[int, int]] = []

    def buffers(self, bucket: int, tokens: int) -> Any:
        self.made.append((bucket, tokens))
        if (bucket, tokens) == self.at and self.fails != "run":
            if self.fails == "not named":
                return {"xbc": torch.zeros(bucket)}
            raise MemoryError("no buffers")
        return super().buffers(bucket, tokens)

    def __call__(self, chain: BoundChain, buffers: Any) -> None:
        super().__call__(chain, buffers)
        if (chain.rows, chain.tokens) == self.at and self.fails == "run":
            raise ValueError("broken step")


def test_there_are_no_buffers_of_what_is_no_bucket() -> None:
    with captured() as runtime, pytest.raises(CaptureError, match=r"=\(3, 3\): has no graph; "):
        runtime.buffers(3)


def test_a_launch_before_any_capture_is_refused() -> None:
    with DecodeRuntime(CASE.config("cpu")) as runtime:
        (slot,) = admit(runtime, 1)
        for call in (lambda: runtime.launch([slot]), lambda: runtime.buffers(1)):
            with pytest.raises(CaptureError, match=r"\(1, 3\): has no graph; captured: none; "):
                call()
        assert not runtime.cache.cursors.last_tokens.any()
        runtime.capture(chain_step(CASE, runtime.config))
        assert runtime.launch([slot]).out.isfinite().all()


def test_progress_is_called_for_each_graph_largest_first() -> None:
    seen = []
    with captured() as runtime:
        runtime.capture(chain_step(CASE, runtime.config), progress=seen.append)
        assert [(report.bucket, report.tokens) for report in seen] == PAIRS
        assert [(report.done, report.total) for report in seen] == [(n, 6) for n in range(1, 7)]
        seconds = sum(report.seconds for report in seen)
        assert runtime.capture_seconds == pytest.approx(seconds) and seconds > 0


def test_capture_touches_no_slot() -> None:
    with captured() as runtime:
        admit(runtime, 3)
        with nothing_written_in_caches(runtime):
            runtime.capture(chain_step(CASE, runtime.config))


def nothing_written_in_caches(runtime: DecodeRuntime) -> Any:
    """Capture replaces the static buffers."""
    return nothing_written(runtime, *static_tensors(runtime))


def test_a_second_capture_replaces_the_first_and_the_slots_stay() -> None:
    with captured() as runtime:
        rows = admit(runtime, 4)
        saved = copies(cached(runtime))
        expected = decode(runtime, rows, 8)
        restore(runtime, saved)
        first = decode(runtime, rows, 4)
        old = runtime.buffers(4)
        watched = weakref.ref(old.xbc)
        graphs = [captured_graph.graph for captured_graph in runtime._graphs]

        runtime.capture(chain_step(CASE, runtime.config))
        assert runtime.buffers(4) is not old
        with pytest.raises(ValueError, match="by row"):
            runtime.accept([0] * 4)  # of which launch?
        assert [graph.state for graph in graphs] == [GraphState.CLOSED] * 6
        del old, graphs
        gc.collect()
        assert watched() is None
        second = []
        rng = random.Random(0)
        counts = [[rng.randint(0, 3) for _ in rows] for _ in range(8)]
        for launch in range(4, 8):
            second.append(runtime.launch(rows, **draw(4, 3, launch)).out.clone())
            runtime.accept(counts[launch])
        check_all_same_bits(first + second, expected)

        runtime.capture(chain_step(CASE, runtime.config, seed=1))  # other weights
        restore(runtime, saved)
        others = decode(runtime, rows, 1)
        assert not torch.equal(others[0], expected[0])


@pytest.mark.parametrize("at", [PAIRS[0], PAIRS[3], PAIRS[-1]], ids=["first", "middle", "last"])
@pytest.mark.parametrize(
    ("fails", "cause"),
    [
        ("run", "ValueError: broken step"),
        ("build", "MemoryError: no buffers"),
        ("not named", "ConfigError: buffers=dict"),
    ],
)
def test_a_failed_capture_leaves_the_runtime_as_it_was(
    at: tuple[int, int], fails: str, cause: str
) -> None:
    with captured() as runtime:
        rows = admit(runtime, 4)
        runtime.launch(rows, **draw(4, 3))
        runtime.accept({slot: 2 for slot in rows})
        saved, graphs = copies(cached(runtime)), static_tensors(runtime)
        expected = decode(runtime, rows, 5)
        restore(runtime, saved)

        step = Failing(runtime, at, fails)
        with nothing_written(runtime):
            for _ in range(2):
                name = f"graph of bucket {at[0]}, T {at[1]}"
                with pytest.raises(CaptureError, match=f"^{name}={cause}") as caught:
                    runtime.capture(step, progress=lambda report: None)
                assert caught.value.__cause__ is not None
        tried = PAIRS[: PAIRS.index(at) + 1]
        assert step.made == 2 * tried
        for name, tensor in static_tensors(runtime).items():
            assert tensor is graphs[name], "the earlier graphs are the runtime's own"
        check_all_same_bits(decode(runtime, rows, 5), expected)

        restore(runtime, saved)
        step.fails = "mended"
        step.at = (0, 0)
        runtime.capture(step)
        check_all_same_bits(decode(runtime, rows, 5), expected)


def test_what_progress_raises_leaves_the_runtime_as_it_was() -> None:
    class Stop(Exception):
        pass

    def progress(report: object) -> None:
        raise Stop

    with captured() as runtime:
        rows = admit(runtime, 2)
        saved = copies(cached(runtime))
        expected = decode(runtime, rows, 3)
        restore(runtime, saved)
        with nothing_written(runtime), pytest.raises(Stop):
            runtime.capture(chain_step(CASE, runtime.config, seed=1), progress=progress)
        check_all_same_bits(decode(runtime, rows, 3), expected)


def test_after_a_failed_capture_counts_by_row_are_still_of_the_last_launch() -> None:
    with captured() as runtime:
        rows = admit(runtime, 2)
        runtime.launch(rows)
        with pytest.raises(CaptureError):
            runtime.capture(Failing(runtime, PAIRS[0], "run"))
        runtime.accept([2, 1])
        assert runtime.accepted[rows].tolist() == [2, 1]


def test_the_step_may_be_any_callable_over_named_buffers() -> None:
    """A step that works its inputs out by itself, and gives more than the chain does."""

    class Doubling(ChainStep):
        def __call__(self, chain: BoundChain, buffers: Any) -> None:
            buffers.xbc.mul_(2)
            super().__call__(chain, buffers)
            buffers.out.add_(1)

    with captured() as runtime:
        rows = admit(runtime, 2)
        saved = copies(cached(runtime))
        inputs = draw(2, 3)
        doubled = inputs | {"xbc": 2 * inputs["xbc"]}
        expected = runtime.launch(rows, **doubled).out[:2].clone() + 1
        restore(runtime, saved)
        plain = chain_step(CASE, runtime.config)
        runtime.capture(Doubling(runtime.config, plain._weights, gated=True))
        check_same_bits(runtime.launch(rows, **inputs).out[:2], expected, "y")


@pytest.mark.parametrize("only_chain", [True, False, None])
def test_what_a_step_says_decides_how_single_layers_are_launched(
    only_chain: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    step: Any = chain_step(CASE, CASE.config("cpu"))
    if only_chain is None:  # one that says nothing at all
        said = step
        step = type("Silent", (), {"buffers": said.buffers, "__call__": lambda _, *a: said(*a)})()
    else:
        step.only_chain = only_chain
    with DecodeRuntime(CASE.config("cpu")) as runtime:
        runtime.capture(step)
        chain = runtime.captured[0].value.chain
        monkeypatch.setattr(chain, "_links", ALL)
        assert chain.links == ALL
        monkeypatch.setattr(chain, "_launch", replace(chain._launch, single=FusedLaunch(16)))
        assert chain.links == (INNER if only_chain is False else ALL)
