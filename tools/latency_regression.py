# SPDX-License-Identifier: Apache-2.0
"""``graphrt latency`` as a script, for a CI that runs from a checkout.

python -m tools.latency_regression record --out base.json
python -m tools.latency_regression compare base.json
python -m tools.latency_regression compare --commits HEAD~1 .
"""

from __future__ import annotations

import sys

from graphrt.cli import main

if __name__ == "__main__":
    sys.exit(main(["latency", *sys.argv[1:]]))
