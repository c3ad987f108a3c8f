# SPDX-License-Identifier: Apache-2.0
"""Two commits of a repository, side by side on disk."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphrt.errors import ConfigError, sentence

WORKING_TREE = "."


@contextmanager
def checked_out(repository: Path, commit: str) -> Iterator[Path]:
    """Yield a folder that holds ``commit``; it is gone afterwards.

    ``.`` is the repository's working tree as it is, changes included. Raises ConfigError for a
    commit that the repository does not have.
    """
    if commit == WORKING_TREE:
        yield repository
        return
    found = _git(repository, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    if found.returncode:
        raise ConfigError(
            sentence("commit", commit, f"must be one of {repository.name}'s", "fetch it first")
        )
    with tempfile.TemporaryDirectory(prefix="graphrt-latency-") as folder:
        tree = Path(folder) / "tree"
        made = _git(repository, "worktree", "add", "--detach", str(tree), found.stdout.strip())
        if made.returncode:
            raise ConfigError(
                sentence("commit", commit, "git could not check it out", made.stderr.strip())
            )
        try:
            yield tree
        finally:
            _git(repository, "worktree", "remove", "--force", str(tree))


def _git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments], cwd=repository, capture_output=True, text=True, timeout=120
    )
