# SPDX-License-Identifier: Apache-2.0
"""Running the sections and keeping what they found, whatever becomes of any of them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from tools.gpu.settings import Settings

Section: TypeAlias = Callable[[Settings], dict[str, Any]]
"""Does its work and returns what JSON can hold, ``failures`` (a list of sentences) among it."""

SCHEMA = 1


def run_section(section: Section, settings: Settings) -> dict[str, Any]:
    """Run ``section``; an exception becomes a failure. Adds ``passed`` and ``seconds``."""
    start = time.perf_counter()
    try:
        found = section(settings)
    except Exception as error:  # the other sections still run, and the report still is written
        found = {
            "failures": [f"{type(error).__name__}: {error}"],
            "traceback": traceback.format_exc().splitlines()[-12:],
        }
    return {
        "passed": not found["failures"],
        "seconds": round(time.perf_counter() - start, 1),
        **found,
    }


def run_sections(
    sections: Mapping[str, Section],
    settings: Settings,
    report: dict[str, Any],
    say: Callable[[str], object],
    save: Callable[[str], object],
) -> None:
    """Put every section's findings into ``report``; after each, ``save`` is given its name."""
    report |= {"schema": SCHEMA, "passed": None, "sections": {}}
    total = len(sections)
    for index, (name, section) in enumerate(sections.items(), start=1):
        say(f"{index}/{total} {name} …")
        found = report["sections"][name] = run_section(section, settings)
        outcome = "passed" if found["passed"] else "FAILED"
        say(f"{index}/{total} {name} {outcome} in {found['seconds']:.1f} s")
        for failure in found["failures"]:
            say(f"    {failure[:2000]}")
        done = report["sections"].values()
        report["passed"] = len(done) == total and all(each["passed"] for each in done)
        save(name)
