# SPDX-License-Identifier: Apache-2.0
"""The version, alone so that packaging can read it without importing anything."""

__version__ = "0.1.0"
