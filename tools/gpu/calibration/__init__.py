# SPDX-License-Identifier: Apache-2.0
"""How often the latency harness is right: comparisons in great number whose truth is known."""
