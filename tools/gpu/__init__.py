# SPDX-License-Identifier: Apache-2.0
"""The parts of `tools.gpu_report`: one module a section, and what they share."""
