# SPDX-License-Identifier: Apache-2.0
"""``python -m graphrt`` is the console script ``graphrt``."""

import sys

from graphrt.cli import main

if __name__ == "__main__":
    sys.exit(main())
