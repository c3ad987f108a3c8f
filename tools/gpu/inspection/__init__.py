# SPDX-License-Identifier: Apache-2.0
"""Sections of tools.gpu_inspection: graphs read back on a GPU, and faults that must be found."""
