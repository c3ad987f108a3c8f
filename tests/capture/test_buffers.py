# SPDX-License-Identifier: Apache-2.0
"""Named static buffers."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from graphrt.capture.buffers import fill, named_tensors, nbytes
from graphrt.errors import ConfigError


@dataclass
class Rope:
    cos: Tensor
    sin: Tensor


@dataclass
class Buffers:
    ids: Tensor = field(default_factory=lambda: torch.zeros(4, 3, dtype=torch.int64))
    scale: Tensor = field(default_factory=lambda: torch.zeros(4))
    live: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.bool))
    rope: Rope = field(default_factory=lambda: Rope(torch.zeros(4, 2), torch.zeros(4, 2)))
    masks: tuple[Tensor, ...] = field(default_factory=lambda: (torch.zeros(4, dtype=torch.int32),))
    bias: Tensor | None = None
    note: str = "not a tensor"


def test_names_are_fields_joined_by_dots_in_order() -> None:
    buffers = Buffers()
    tensors = named_tensors(buffers)
    assert list(tensors) == ["ids", "scale", "live", "rope.cos", "rope.sin", "masks.0"]
    assert tensors["rope.sin"] is buffers.rope.sin
    assert tensors["masks.0"] is buffers.masks[0]


def test_a_tuple_of_dataclasses_is_entered() -> None:
    pair = (Rope(torch.zeros(1), torch.zeros(1)), Rope(torch.zeros(1), torch.zeros(1)))
    assert list(named_tensors(pair)) == ["0.cos", "0.sin", "1.cos", "1.sin"]


@pytest.mark.parametrize("other", [None, {"ids": torch.zeros(1)}, torch.zeros(1), Buffers, 3])
def test_what_is_no_dataclass_instance_is_refused(other: Any) -> None:
    with pytest.raises(ConfigError, match=r"^buffers=\w+: static buffers are a dataclass"):
        named_tensors(other)


def test_bytes_count_a_tensor_with_two_names_once() -> None:
    shared = torch.zeros(5, dtype=torch.float16)
    assert nbytes(Rope(shared, shared)) == 10
    assert nbytes(Rope(shared, torch.zeros(3))) == 22


def test_fill_writes_the_first_rows_and_leaves_the_others() -> None:
    buffers = Buffers()
    buffers.ids.fill_(9)
    fill(buffers, 2, {"ids": [[1, 2, 3], [4, 5, 6]], "rope.cos": torch.ones(2, 2)})
    assert buffers.ids.tolist() == [[1, 2, 3], [4, 5, 6], [9, 9, 9], [9, 9, 9]]
    assert buffers.rope.cos.tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]


def test_fill_takes_the_names_that_were_looked_up_before() -> None:
    tensors = named_tensors(Buffers())
    fill(tensors, 1, {"scale": [0.5]})
    assert tensors["scale"].tolist() == [0.5, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ids", torch.tensor([[1, 2, 3]], dtype=torch.int32)),  # narrower
        ("masks.0", torch.tensor([5])),  # wider
        ("scale", torch.tensor([0.5], dtype=torch.float64)),
        ("scale", torch.tensor([0.5, 1.5, 2.5])[::2][:1]),  # strided
        ("live", [True]),
        ("ids", np.array([[1, 2, 3]])),
        ("ids", ((1, 2, 3),)),
    ],
)
def test_fill_converts_width_but_not_kind(name: str, value: Any) -> None:
    tensors = named_tensors(Buffers())
    fill(tensors, 1, {name: value})
    expected = torch.as_tensor(value).to(tensors[name].dtype)
    assert torch.equal(tensors[name][:1], expected)


def test_an_input_may_be_overwritten_as_soon_as_fill_returns() -> None:
    buffers = Buffers()
    source = torch.ones(4)
    fill(buffers, 4, {"scale": source})
    source.fill_(7)
    assert buffers.scale.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("inputs", "rows", "message"),
    [
        ({"tokens": [1]}, 1, "input=tokens: must name a static buffer: ids, scale, live, rope.cos"),
        ({"note": [1]}, 1, "input=note: must name a static buffer"),
        ({"scale": [0.0] * 5}, 5, "rows=5: buffer scale of shape .4,. has fewer"),
        ({"scale": [0.0]}, 2, "scale=.1,.: must have shape .2,."),
        ({"ids": [1, 2, 3]}, 1, "ids=.3,.: must have shape .1, 3."),
        ({"scale": 0.5}, 1, "scale=..: must have shape .1,."),
        ({"scale": [1]}, 1, "scale=torch.int64: the buffer holds torch.float32"),
        ({"ids": [[1.0, 2.0, 3.0]]}, 1, "ids=torch.float32: the buffer holds torch.int64"),
        ({"ids": [[True, True, True]]}, 1, "ids=torch.bool: the buffer holds torch.int64"),
        ({"live": [1]}, 1, "live=torch.int64: the buffer holds torch.bool"),
        ({"scale": [1j]}, 1, "scale=torch.complex64"),
        ({"scale": ["a"]}, 1, "scale=list: an input is a tensor or a sequence of numbers"),
        ({"ids": [[1, 2], [3]]}, 1, "ids=list: an input is a tensor or a sequence of numbers"),
        ({"scale": object()}, 1, "scale=object: an input is a tensor or a sequence"),
    ],
)
def test_a_wrong_input_is_refused_and_nothing_is_copied(
    inputs: dict[str, Any], rows: int, message: str
) -> None:
    buffers = Buffers()
    good = {"live": [True] * rows} if rows <= 4 else {}
    with pytest.raises(ConfigError, match=f"^{message}"):
        fill(buffers, rows, good | inputs)
    assert not any(bool(t.any()) for t in named_tensors(buffers).values())


def test_a_buffer_without_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rows=1: buffer cos of shape \(\) has fewer"):
        fill(Rope(torch.tensor(0.0), torch.zeros(1)), 1, {"cos": [0.0]})


def test_no_buffer_at_all_is_said() -> None:
    with pytest.raises(ConfigError, match="input=ids: must name a static buffer: there is none"):
        fill((), 1, {"ids": [1]})
