# SPDX-License-Identifier: Apache-2.0
"""The trained model in the package: a byte-level Mamba-2 of 1.8 million parameters.

Trained by tools/train_demo_model.py on the Python standard library, stored as Hugging Face stores
Mamba-2; training_report.json beside the weights says how, and its held-out bits per byte.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from graphrt.errors import CheckpointError, sentence

NAME = "python-bytes-1.8m"


def bundled_model() -> Path:
    """Return the model's directory; raise CheckpointError for an installation without it."""
    directory = Path(str(files(__name__) / NAME))
    if not directory.is_dir():
        raise CheckpointError(
            sentence("bundled model", directory, "is not there", "install graphrt again, unzipped")
        )
    return directory
