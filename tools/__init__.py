# SPDX-License-Identifier: Apache-2.0
"""Scripts of the repository, run as ``python -m tools.NAME`` from its root."""
