# SPDX-License-Identifier: Apache-2.0
"""Print the requirements of pyproject.toml that this interpreter does not meet, one a line.

Covers what running and testing need; ruff and mypy are not counted.
"""

import sys
import tomllib
from importlib import metadata
from pathlib import Path


def missing() -> list[str]:
    """Return the unmet requirements as pyproject.toml writes them."""
    with (Path(__file__).parent.parent / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    needs: list[str] = project["dependencies"] + project["optional-dependencies"]["test"]
    try:
        from packaging.requirements import Requirement
    except ImportError:  # pytest and transformers need packaging, so they are not here either
        return needs
    return [need for need in needs if not _met(Requirement(need))]


def _met(need: "Requirement") -> bool:  # noqa: F821
    if need.marker is not None and not need.marker.evaluate():
        return True
    try:
        version = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return False
    return need.specifier.contains(version, prereleases=True)


if __name__ == "__main__":
    sys.stdout.writelines(f"{need}\n" for need in missing())
