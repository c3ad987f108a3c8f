# SPDX-License-Identifier: Apache-2.0
"""What a captured graph holds: ``graphrt inspect`` as a script.

python -m tools.inspect_graph REPORT.json [--full] [--html OUT] [--json]
python -m tools.inspect_graph --diff A.json B.json
python -m tools.inspect_graph --demo
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from graphrt import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``graphrt inspect`` with ``argv`` and return its exit code."""
    return cli.main(["inspect", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
