# SPDX-License-Identifier: Apache-2.0
"""Language models on top of the runtime: Mamba-2 as Hugging Face stores it."""
