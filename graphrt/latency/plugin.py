# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: a ``latency`` fixture and marker, --latency-record, --latency-compare.

    @pytest.mark.latency
    def test_forward(latency):
        latency.measure(lambda: model(x))

Imports nothing heavy before a test asks for the fixture. Measurements of one device take turns by
a lock, so pytest-xdist's workers do not disturb each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from graphrt.latency.fixture import Latency

_RECORDED = pytest.StashKey[list[str]]()
_OUTPUT = "graphrt_latency"  # what a worker of xdist hands to the controller


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("latency", "latency of captured graphs (graphrt)")
    group.addoption("--latency-record", type=Path, metavar="FILE", help="record into FILE")
    group.addoption(
        "--latency-compare", type=Path, metavar="FILE", help="fail what is slower than in FILE"
    )
    group.addoption(
        "--latency-minimum-effect",
        action="append",
        default=[],
        metavar="SHARE",
        help="least change that matters: 0.03, or step=0.05 for one quantity",
    )
    group.addoption("--latency-device", metavar="DEVICE", help="default: the GPU, else the CPU")
    group.addoption("--latency-quick", action="store_true", help="tiny counts, to try it out")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and read the baseline early: a bad file stops the run at once."""
    config.addinivalue_line(
        "markers",
        "latency(quantities=None, minimum_effect=None, predicted_gain=0.0): a test that measures "
        "latency by the fixture of that name; skipped where the quantities need a GPU",
    )
    config.stash[_RECORDED] = []
    if config.getoption("latency_compare") is not None:
        from graphrt.errors import GraphrtError
        from graphrt.latency.effects import MinimumEffects
        from graphrt.latency.files import load

        try:
            load(config.getoption("latency_compare"))
            MinimumEffects.parse(config.getoption("latency_minimum_effect"))
        except (GraphrtError, OSError) as error:
            raise pytest.UsageError(f"--latency-compare: {error}") from None


@pytest.fixture
def latency(request: pytest.FixtureRequest) -> Iterator[Latency]:
    """Measure callables and subjects; record them, or compare them with the baseline."""
    from graphrt.latency.fixture import Latency, Options

    config = request.config
    options = Options(
        compare=config.getoption("latency_compare"),
        recording=config.getoption("latency_record") is not None,
        effects=config.getoption("latency_minimum_effect"),
        device=config.getoption("latency_device"),
        quick=config.getoption("latency_quick"),
    )
    fixture = Latency(request.node, options)
    yield fixture
    config.stash[_RECORDED].extend(json.dumps(found.describe()) for found in fixture.recorded)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what was recorded; a worker of xdist hands it to the controller instead."""
    config = session.config
    output: dict[str, Any] | None = getattr(config, "workeroutput", None)
    recorded = config.stash[_RECORDED]
    if output is not None:
        output[_OUTPUT] = recorded
        return
    path = config.getoption("latency_record")
    if path is not None and recorded:
        from graphrt.latency.fixture import write_merged

        write_merged(recorded, path)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Collect what a worker of xdist recorded."""
    found: list[str] = getattr(node, "workeroutput", {}).get(_OUTPUT, [])
    node.config.stash[_RECORDED].extend(found)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what is done with latencies, where anything is."""
    path = config.getoption("latency_record")
    against = config.getoption("latency_compare")
    parts = [f"recorded into {path}"] if path else []
    parts += [f"compared with {against}"] if against else []
    return f"latency: {', '.join(parts)}" if parts else None
