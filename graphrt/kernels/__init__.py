# SPDX-License-Identifier: Apache-2.0
"""The chain: advance, then per layer conv1d → precompute → state update, conv1d → fused, or single.

One stem per stage: ``precompute.py`` holds ``_precompute_kernel`` and its launcher ``precompute``,
``reference.py`` its PyTorch twin ``precompute_reference``. ``chain.py`` is the order of the stages.
"""
