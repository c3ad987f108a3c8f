# SPDX-License-Identifier: Apache-2.0
"""What all tests share: which tests run, fixed seeds, and memory that starts out poisoned."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

# Kernels imported under TRITON_INTERPRET are interpreted for the whole process, so one process
# runs either tests/interpreter or everything else. The Makefile runs both.
INTERPRETER_TESTS = Path(__file__).parent / "interpreter"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-gpu",
        action="store_true",
        help="refuse to start without a CUDA device instead of skipping the tests that need one",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--require-gpu") and not torch.cuda.is_available():
        raise pytest.UsageError("--require-gpu: torch sees no CUDA device; see `graphrt info`")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    if collection_path == INTERPRETER_TESTS:
        return None if INTERPRETED else True
    if INTERPRETED and not collection_path.is_dir():
        return None if INTERPRETER_TESTS in collection_path.parents else True
    return None


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    has_cuda = torch.cuda.is_available()
    for item in items:
        if item.get_closest_marker("gpu"):
            # One worker for the one GPU: memory and time are measured there.
            item.add_marker(pytest.mark.xdist_group("gpu"))
            if not has_cuda:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, torch sees none"))


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    """Start every test from the same seeds, on one thread, whatever ran before it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make uninitialised memory loud: torch.empty and its kin return NaN, or an int's lowest."""

    def poisoned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def wrapper(*args: object, **kwargs: object) -> torch.Tensor:
            return poison(make(*args, **kwargs))

        return wrapper

    for owner, name in [
        (torch, "empty"),
        (torch, "empty_like"),
        (torch, "empty_strided"),
        (torch.Tensor, "new_empty"),
    ]:
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
    yield


def poison(tensor: torch.Tensor) -> torch.Tensor:
    """Fill ``tensor`` with NaN, or with the lowest value of an integer dtype, and return it."""
    if tensor.is_floating_point() or tensor.is_complex():
        value: float = float("nan")
    elif tensor.dtype == torch.bool:
        value = True
    else:
        value = torch.iinfo(tensor.dtype).min
    with torch.no_grad():
        return tensor.fill_(value)
