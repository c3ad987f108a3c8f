# SPDX-License-Identifier: Apache-2.0
"""Which stages of a chain are PDL-linked: all, none, one, and all but conv1d."""

from __future__ import annotations

from graphrt.config import PdlLinks

ALL = PdlLinks(conv1d=True, precompute=True, state_update=True)
INNER = PdlLinks(conv1d=False, precompute=True, state_update=True)
NONE = PdlLinks(conv1d=False, precompute=False, state_update=False)
ONLY_CONV1D = PdlLinks(conv1d=True, precompute=False, state_update=False)
ONLY_PRECOMPUTE = PdlLinks(conv1d=False, precompute=True, state_update=False)
ONLY_STATE_UPDATE = PdlLinks(conv1d=False, precompute=False, state_update=True)
