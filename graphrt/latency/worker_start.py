# SPDX-License-Identifier: Apache-2.0
"""Run as a file: ``python worker_start.py TREE``. Measures TREE's graphrt by this harness.

TREE's own graphrt.latency, if it has one, is passed over: two harnesses would be compared
otherwise. Imports nothing before the path is set.
"""

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Put TREE first on the path, this folder in the place of graphrt.latency, and serve."""
    sys.path[0] = sys.argv[1]  # in place of this file's folder
    import graphrt

    if Path(graphrt.__file__).parents[1] != Path(sys.argv[1]):
        raise SystemExit(f"graphrt={graphrt.__file__}: must be that of {sys.argv[1]}")
    here = Path(__file__).parent
    spec = importlib.util.spec_from_file_location(
        "graphrt.latency", here / "__init__.py", submodule_search_locations=[str(here)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["graphrt.latency"] = module
    spec.loader.exec_module(module)

    from graphrt.latency.worker import serve

    serve()


if __name__ == "__main__":
    main()
