# SPDX-License-Identifier: Apache-2.0
"""HostQueue: each message is read once, as it was sent; and on CUDA, which memory waits for what.

CUDA's pinned memory and events are replaced here, so that their order can be seen without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from graphrt import host_queue as module
from graphrt.capture.graph import GraphState, RecordedGraph
from graphrt.capture.space import RecordSpace
from graphrt.errors import CaptureError
from graphrt.host_queue import HostQueue

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Space(RecordSpace):
    """Remembers the graphs it made and what was warmed up."""

    def __init__(self) -> None:
        self.made: list[RecordedGraph] = []
        self.warm_ups = 0

    def graph(self, name: str = "graph") -> RecordedGraph:
        self.made.append(super().graph(name))
        return self.made[-1]

    def warm_up(self, fn: Callable[[], object]) -> None:
        self.warm_ups += 1
        fn()


class Reader:
    """Keeps a copy of every message, and where in memory it was."""

    def __init__(self) -> None:
        self.messages: list[list[int]] = []
        self.places: list[int] = []
        self.kernel = object()

    def __call__(self, values: Tensor) -> object:
        assert values.dtype == torch.int32
        self.messages.append(values.tolist())
        self.places.append(values.data_ptr())
        return self.kernel


def test_it_is_warmed_up_once_on_an_idle_message() -> None:
    space, read = Space(), Reader()
    HostQueue(space, CPU, 3, read, idle=-1)
    assert read.messages == [[-1, -1, -1]]
    assert space.warm_ups == 1
    assert [graph.state for graph in space.made] == [GraphState.READY]


def test_every_message_is_read_once_in_order() -> None:
    read = Reader()
    queue = HostQueue(RecordSpace(), CPU, 2, read, idle=0)
    sent = [[n, -n] for n in range(20)]
    for message in sent:
        queue.send(message)
    assert read.messages[1:] == sent


def test_a_message_may_be_any_sequence_and_changed_after_it_was_sent() -> None:
    read = Reader()
    queue = HostQueue(RecordSpace(), CPU, 2, read, idle=0)
    message = [2**31 - 1, -(2**31)]
    queue.send(message)
    message[:] = 5, 6
    queue.send((7, 8))
    assert read.messages[1:] == [[2**31 - 1, -(2**31)], [7, 8]]


@pytest.mark.parametrize("message", [[], [1, 2, 3, 4], [1, 2]], ids=str)
def test_a_message_of_another_length_is_not_read(message: list[int]) -> None:
    read = Reader()
    queue = HostQueue(RecordSpace(), CPU, 3, read, idle=0)
    with pytest.raises(ValueError):
        queue.send(message)
    assert len(read.messages) == 1
    queue.send([1, 2, 3])
    assert read.messages[1:] == [[1, 2, 3]]


def test_two_queues_have_their_own_memory() -> None:
    space, one, other = Space(), Reader(), Reader()
    first, second = (HostQueue(space, CPU, 1, read, idle=0) for read in (one, other))
    first.send([1])
    second.send([2])
    first.send([3])
    assert one.messages == [[0], [1], [3]]
    assert other.messages == [[0], [2]]
    assert set(one.places).isdisjoint(other.places)


def test_what_fails_while_warming_up_surfaces_and_nothing_is_captured() -> None:
    space = Space()

    def broken(values: Tensor) -> object:
        raise ValueError("broken read")

    with pytest.raises(ValueError, match="broken read"):
        HostQueue(space, CPU, 1, broken, idle=0)
    assert space.made == []


def test_closing_closes_the_graph_and_nothing_is_sent_after() -> None:
    space, read = Space(), Reader()
    queue = HostQueue(space, CPU, 1, read, idle=0)
    queue.close()
    queue.close()
    assert [graph.state for graph in space.made] == [GraphState.CLOSED]
    with pytest.raises(CaptureError, match="closed"):
        queue.send([1])
    assert read.messages == [[0]]


# --- as on CUDA ----------------------------------------------------------------------------------


class Device:
    """Events and pinned memory that write down what is done to them."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []
        self.events: list[Device.Event] = []
        self.pinned: list[Tensor] = []

    class Event:
        def __init__(self, device: Device) -> None:
            self.device, self.number = device, len(device.events)

        def synchronize(self) -> None:
            self.device.log.append(("wait", self.number))

        def record(self) -> None:
            self.device.log.append(("record", self.number))

    def event(self) -> Device.Event:
        self.events.append(Device.Event(self))
        return self.events[-1]

    def full(self, *args: Any, pin_memory: bool, **kwargs: Any) -> Tensor:
        assert pin_memory, "the device reads it while the host goes on"
        self.pinned.append(torch.full(*args, **kwargs))
        return self.pinned[-1]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()
    names = SimpleNamespace(
        full=made.full, int32=torch.int32, cuda=SimpleNamespace(Event=made.event)
    )
    monkeypatch.setattr(module, "torch", names)
    return made


def test_eight_messages_have_memory_and_a_graph_each(device: Device) -> None:
    space, read = Space(), Reader()
    queue = HostQueue(space, CUDA, 2, read, idle=-1)
    assert read.messages == [[-1, -1]] and space.warm_ups == 1
    assert len(space.made) == len(device.pinned) == len(device.events) == 8
    for graph, values in zip(space.made, device.pinned, strict=True):
        assert graph.state is GraphState.READY
        assert any(kept is values for kept in graph._kept), "the graph points at it"
        assert any(isinstance(kept, list) and read.kernel in kept for kept in graph._kept)
    sent = [[n, n + 1] for n in range(20)]
    for message in sent:
        queue.send(message)
    assert read.messages[1:] == sent
    assert len(set(read.places[1:9])) == 8
    assert read.places[1:13] == read.places[9:21]
    assert [values.tolist() for values in device.pinned] == sent[16:] + sent[12:16]


def test_a_message_waits_for_the_one_whose_memory_it_takes_and_no_other(device: Device) -> None:
    def read(values: Tensor) -> None:
        if device.log:  # not while warming up
            device.log.append(("read", int(values[0])))

    queue = HostQueue(Space(), CUDA, 1, read, idle=0)
    for number in range(10):
        device.log.append(("send", number))
        queue.send([number])
    expected = []
    for number in range(10):
        event = number % 8
        expected += [("send", number), ("wait", event), ("read", number), ("record", event)]
    assert device.log == expected


def test_closing_closes_all_eight(device: Device) -> None:
    space = Space()
    queue = HostQueue(space, CUDA, 1, Reader(), idle=0)
    queue.close()
    assert [graph.state for graph in space.made] == [GraphState.CLOSED] * 8
