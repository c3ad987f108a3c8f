# SPDX-License-Identifier: Apache-2.0
"""Faults that are put into the chain while a side is built, described and gated.

Each is a context manager: within it whatever is bound, captured or looked up has the fault.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from graphrt.cache import ReplayCache
from graphrt.config import RuntimeConfig
from graphrt.kernels import tuning
from graphrt.kernels.tuning import ChainLaunch, FusedLaunch, StateUpdateLaunch
from graphrt.latency.samplers import Samplers
from graphrt.latency.subject import Build, Subject

Fault = Callable[[], AbstractContextManager[object]]

none: Fault = contextlib.nullcontext


class FaultySubject:
    """A subject that is built, described and gated within ``fault``; its graphs keep it."""

    def __init__(self, fault: Fault, build: Build) -> None:
        """Build it."""
        self._fault = fault
        with fault():
            self._subject: Subject = build()

    def samplers(self) -> Samplers:
        """Ask the subject."""
        return self._subject.samplers()

    def what(self) -> dict[str, Any]:
        """Ask the subject."""
        return self._subject.what()

    def facts(self) -> dict[str, Any]:
        """Ask the subject, within the fault: it looks up the tuning entry."""
        with self._fault():
            return self._subject.facts()

    def check(self) -> str:
        """Ask the subject, within the fault: it binds and runs the chain anew."""
        with self._fault():
            return self._subject.check()

    def close(self) -> None:
        """Close the subject."""
        self._subject.close()


@contextlib.contextmanager
def smaller_tile() -> Iterator[None]:
    """Let the tuning entry of the longest stage have tiles of 16 rows of P, one warp each."""

    choose = tuning.choose

    def changed(*given: Any) -> ChainLaunch:
        found = choose(*given)
        small = {
            stage: None if getattr(found, stage) is None else FusedLaunch(16, in_shared=True)
            for stage in ("fused", "single")
        }
        return replace(found, state_update=StateUpdateLaunch(16), **small)

    with mock.patch.object(tuning, "choose", changed):
        yield


@contextlib.contextmanager
def unaligned_state() -> Iterator[None]:
    """Let every cache's state begin one element after where 16 bytes do: loads become narrower."""
    make = ReplayCache.__init__

    def shifted(cache: ReplayCache, config: RuntimeConfig) -> None:
        make(cache, config)
        state = cache.state
        room = torch.zeros(state.numel() + 1, dtype=state.dtype, device=state.device)
        cache.state = room[1:].view(state.shape)

    with mock.patch.object(ReplayCache, "__init__", shifted):
        yield


def missing_wait(*stages: str) -> Fault:
    """Return the fault of ``stages`` that are launched early and do not wait for their producer."""

    @contextlib.contextmanager
    def fault() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for stage in stages:
                module = importlib.import_module(f"graphrt.kernels.{stage}")
                name = f"_{stage}_kernel"
                hasty = _Hasty(getattr(module, name))
                stack.enter_context(mock.patch.object(module, name, hasty))
            yield

    return fault


class _Hasty:
    """A jitted kernel whose launches are all compiled without their wait."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        launch = self._kernel[grid]

        def hasty(*given: Any, **named: Any) -> Any:
            return launch(*given, **{**named, "WAIT": False})

        return hasty
