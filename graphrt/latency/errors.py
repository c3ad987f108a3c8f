# SPDX-License-Identifier: Apache-2.0
"""What latency recordings and comparisons raise on purpose.

GraphrtError
├── RecordingError        (ValueError)    a file that is no usable recording
│   ├── TruncatedRecording                cut off, or its recording was killed
│   ├── OtherSchema                       written by another version of the format
│   └── BadSamples                        empty, not finite, or all zero
├── ComparisonRefused     (ValueError)    two recordings that say nothing about each other
└── LatencyUnavailable    (RuntimeError)  a quantity that cannot be measured here
"""

from __future__ import annotations

from graphrt.errors import GraphrtError


class RecordingError(GraphrtError, ValueError):
    """A file that is no usable recording; it was left as it is."""


class TruncatedRecording(RecordingError):
    """A recording that is cut off, or whose process ended before it was complete."""


class OtherSchema(RecordingError):
    """A recording in a version of the format that this graphrt does not read."""


class BadSamples(RecordingError):
    """Samples that cannot have been measured: none, not finite, or all zero."""


class ComparisonRefused(GraphrtError, ValueError):
    """Two recordings made under conditions too different for their times to be compared."""


class LatencyUnavailable(GraphrtError, RuntimeError):
    """A quantity that cannot be measured here; nothing was measured."""
