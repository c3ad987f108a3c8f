# SPDX-License-Identifier: Apache-2.0
"""The state machine, on the graph that records."""

import gc
import threading
import weakref
from collections.abc import Callable

import pytest
import torch

from graphrt.capture.graph import _ILLEGAL, Graph, GraphState, RecordedGraph
from graphrt.errors import CaptureError, SlotError

MOVES: dict[str, Callable[[Graph], object]] = {
    "begin": lambda graph: graph.begin(),
    "run": lambda graph: graph.run(lambda: None),
    "end": lambda graph: graph.end(),
    "instantiate": lambda graph: graph.instantiate(),
    "upload": lambda graph: graph.upload(),
    "launch": lambda graph: graph.launch(),
    "keep": lambda graph: graph.keep(object()),
    "close": lambda graph: graph.close(),
}

# For every state, the moves that are legal in it and the state each leads to.
LEGAL: dict[GraphState, dict[str, GraphState]] = {
    GraphState.EMPTY: {
        "begin": GraphState.CAPTURING,
        "keep": GraphState.EMPTY,
        "close": GraphState.CLOSED,
    },
    GraphState.CAPTURING: {
        "run": GraphState.CAPTURING,
        "end": GraphState.CAPTURED,
        "keep": GraphState.CAPTURING,
        "close": GraphState.CLOSED,
    },
    GraphState.CAPTURED: {
        "instantiate": GraphState.READY,
        "keep": GraphState.CAPTURED,
        "close": GraphState.CLOSED,
    },
    GraphState.READY: {
        "upload": GraphState.READY,
        "launch": GraphState.READY,
        "keep": GraphState.READY,
        "close": GraphState.CLOSED,
    },
    GraphState.CLOSED: {"close": GraphState.CLOSED},
}


def graph_in(state: GraphState) -> RecordedGraph:
    """Return a graph that took the shortest way to ``state``."""
    graph = RecordedGraph("toy")
    if state is GraphState.CLOSED:
        graph.close()
    elif state is not GraphState.EMPTY:
        graph.begin()
        if state is not GraphState.CAPTURING:
            graph.run(lambda: None)
            graph.end()
        if state is GraphState.READY:
            graph.instantiate()
    assert graph.state is state
    return graph


LEGAL_MOVES = [(state, move, after) for state in LEGAL for move, after in LEGAL[state].items()]
ILLEGAL_MOVES = [(state, move) for state in LEGAL for move in MOVES if move not in LEGAL[state]]


@pytest.mark.parametrize(("state", "move", "after"), LEGAL_MOVES)
def test_a_legal_move_leads_where_it_should(
    state: GraphState, move: str, after: GraphState
) -> None:
    graph = graph_in(state)
    MOVES[move](graph)
    assert graph.state is after


@pytest.mark.parametrize(("state", "move"), ILLEGAL_MOVES)
def test_an_illegal_move_is_refused_and_changes_nothing(state: GraphState, move: str) -> None:
    graph = graph_in(state)
    with pytest.raises(CaptureError, match=rf"^toy={state.value}: {move}\(\) .+; .+"):
        MOVES[move](graph)
    assert graph.state is state


def test_every_illegal_move_has_a_sentence_of_its_own() -> None:
    assert {(s, m) for s in _ILLEGAL for m in _ILLEGAL[s]} == set(ILLEGAL_MOVES)
    rules = [_ILLEGAL[state][move] for state, move in ILLEGAL_MOVES]
    assert len(set(rules)) == len(rules) == 25


def test_launch_runs_the_recorded_calls_in_order_and_recording_runs_none() -> None:
    x = torch.zeros(3)
    with RecordedGraph() as graph:
        graph.begin()
        graph.run(lambda: x.add_(1))
        graph.run(lambda: x.mul_(10))
        graph.end()
        graph.instantiate()
        assert x.tolist() == [0, 0, 0]
        graph.launch()
        assert x.tolist() == [10, 10, 10]
        graph.launch()
        assert x.tolist() == [110, 110, 110]
    assert graph.state is GraphState.CLOSED


def test_capture_is_begin_run_end() -> None:
    calls: list[str] = []
    graph = RecordedGraph()
    graph.capture(lambda: calls.append("work"))
    assert graph.state is GraphState.CAPTURED
    graph.instantiate()
    graph.launch()
    assert calls == ["work"]


def test_what_a_recorded_call_raises_at_launch_is_raised_as_it_is() -> None:
    def refuse() -> None:
        raise SlotError("slot=7: not admitted; admit it")

    graph = RecordedGraph()
    graph.capture(refuse)
    graph.instantiate()
    with pytest.raises(SlotError, match="slot=7"):
        graph.launch()
    assert graph.state is GraphState.READY


class FailingGraph(RecordedGraph):
    """Runs its callables while recording, as a CUDA graph does; counts what it undoes."""

    def __init__(self, fail: str = "") -> None:
        super().__init__("toy")
        self.fail = fail
        self.abandoned = 0
        self.released = 0

    def _begin(self) -> None:
        if self.fail == "begin":
            raise OSError("no stream")

    def _run(self, fn: Callable[[], object]) -> None:
        fn()
        super()._run(fn)

    def _end(self) -> None:
        if self.fail == "end":
            raise OSError("unjoined")

    def _instantiate(self) -> Callable[[], None]:
        if self.fail == "instantiate":
            raise OSError("no memory")
        return super()._instantiate()

    def _abandon(self) -> None:
        self.abandoned += 1
        super()._abandon()

    def _release(self) -> None:
        self.released += 1


def raise_error(error: BaseException) -> None:
    raise error


def test_a_failing_callable_leaves_an_empty_graph_and_names_the_cause() -> None:
    graph = FailingGraph()
    cause = ValueError("token 7 is odd\nand a second line")
    with pytest.raises(CaptureError, match=r"^toy=ValueError: token 7 is odd: .+; ") as caught:
        graph.capture(lambda: raise_error(cause))
    assert caught.value.__cause__ is cause
    assert "second line" not in str(caught.value)
    assert (graph.state, graph.abandoned) == (GraphState.EMPTY, 1)

    done: list[int] = []
    graph.capture(lambda: done.append(1))
    graph.instantiate()
    graph.launch()
    assert done == [1, 1]  # while capturing and at launch: nothing of the failed attempt is left


def test_a_cause_without_a_message_is_named_by_its_type() -> None:
    with pytest.raises(CaptureError, match=r"^toy=KeyError: a capture fails"):
        FailingGraph().capture(lambda: raise_error(KeyError()))


def test_a_capture_error_of_a_callable_is_not_wrapped() -> None:
    cause = CaptureError("inner=closed: make it open; open it")
    graph = FailingGraph()
    with pytest.raises(CaptureError) as caught:
        graph.capture(lambda: raise_error(cause))
    assert caught.value is cause
    assert graph.state is GraphState.EMPTY


def test_an_interrupt_abandons_the_capture_and_passes_through() -> None:
    graph = FailingGraph()
    with pytest.raises(KeyboardInterrupt):
        graph.capture(lambda: raise_error(KeyboardInterrupt()))
    assert (graph.state, graph.abandoned) == (GraphState.EMPTY, 1)


@pytest.mark.parametrize(("fail", "abandoned"), [("begin", 0), ("end", 1)])
def test_a_failing_begin_or_end_leaves_an_empty_graph(fail: str, abandoned: int) -> None:
    graph = FailingGraph(fail)
    with pytest.raises(CaptureError, match="toy=OSError") as caught:
        graph.capture(lambda: None)
    assert isinstance(caught.value.__cause__, OSError)
    assert (graph.state, graph.abandoned) == (GraphState.EMPTY, abandoned)


def test_a_failing_instantiate_leaves_the_graph_captured() -> None:
    graph = FailingGraph("instantiate")
    graph.capture(lambda: None)
    with pytest.raises(OSError, match="no memory"):
        graph.instantiate()
    assert graph.state is GraphState.CAPTURED
    graph.fail = ""
    graph.instantiate()
    assert graph.state is GraphState.READY


def test_close_abandons_a_capture_under_way_and_releases_once() -> None:
    graph = FailingGraph()
    graph.begin()
    graph.close()
    graph.close()
    assert (graph.abandoned, graph.released) == (1, 1)


def test_leaving_the_context_closes_even_when_the_body_raises() -> None:
    graph = FailingGraph()
    with pytest.raises(LookupError), graph:
        graph.begin()
        raise LookupError
    assert (graph.state, graph.abandoned, graph.released) == (GraphState.CLOSED, 1, 1)


def test_a_forgotten_graph_is_closed_when_it_is_collected() -> None:
    released: list[int] = []

    class Watched(RecordedGraph):
        def _release(self) -> None:
            released.append(1)

    graph = Watched()
    graph.capture(lambda: None)
    del graph
    gc.collect()
    assert released == [1]


def test_a_constructor_that_fails_leaves_no_noise_behind() -> None:
    class Broken(RecordedGraph):
        def __init__(self) -> None:
            raise ValueError

    with pytest.raises(ValueError):
        Broken()
    gc.collect()  # an exception in __del__ would be a warning, and warnings are errors


class Thing:
    """Something a weak reference can watch."""

    def touch(self) -> None:
        """Be reachable from a bound method."""


def test_a_graph_keeps_its_callables_and_what_it_is_told_until_it_is_closed() -> None:
    graph = RecordedGraph()
    called, kept = Thing(), Thing()
    watched = [weakref.ref(called), weakref.ref(kept)]
    graph.capture(called.touch)
    graph.keep(kept)
    del called, kept
    gc.collect()
    assert all(reference() is not None for reference in watched)
    graph.close()
    gc.collect()
    assert all(reference() is None for reference in watched)


def test_a_failed_capture_lets_go_of_what_it_kept_and_of_nothing_else() -> None:
    graph = FailingGraph()
    before, during = Thing(), Thing()
    watched = [weakref.ref(before), weakref.ref(during)]
    graph.keep(before)
    graph.begin()
    graph.keep(during)
    del before, during
    with pytest.raises(CaptureError):
        graph.run(lambda: raise_error(ValueError()))
    gc.collect()
    assert watched[0]() is not None
    assert watched[1]() is None


@pytest.mark.parametrize("move", ["run", "end", "close"])
def test_a_capture_belongs_to_the_thread_that_began_it(move: str) -> None:
    graph = graph_in(GraphState.CAPTURING)
    errors: list[CaptureError] = []

    def elsewhere() -> None:
        with pytest.raises(CaptureError) as caught:
            MOVES[move](graph)
        errors.append(caught.value)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert f"{move}() on another thread" in str(errors[0])
    assert graph.state is GraphState.CAPTURING
    MOVES[move](graph)
