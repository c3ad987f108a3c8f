# SPDX-License-Identifier: Apache-2.0
"""Recordings as files: written so that nothing is lost, read so that nothing is guessed.

While a recording is made it lies in ``FILE.partial``, written anew after every case. It takes
FILE's place only when it is complete, so that a recording that was killed leaves the one before it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from graphrt.bench.jsonfile import write_json
from graphrt.errors import sentence
from graphrt.latency.errors import BadSamples, OtherSchema, RecordingError, TruncatedRecording
from graphrt.latency.quantities import QUANTITIES, Key
from graphrt.latency.recording import KIND, SCHEMA, CaseRecord, Recording, Samples

_FIELDS: dict[str, type] = {
    "kind": str,
    "schema": int,
    "complete": bool,
    "label": str,
    "run": str,
    "device": str,
    "conditions": dict,
    "settings": dict,
    "clocks": dict,
    "cases": list,
}
_CASE_FIELDS = {"name", "what", "facts", "failed", "series", "yardsticks"}
_SERIES_FIELDS = {"quantity", "part", "unit", "samples"}


def partial_path(path: Path) -> Path:
    """Return where a recording for ``path`` lies until it is complete."""
    return path.with_name(f"{path.name}.partial")


def save(recording: Recording, path: Path) -> None:
    """Write ``recording``: to ``path`` if it is complete, else beside it."""
    if not recording.complete:
        write_json(recording.describe(), partial_path(path))
        return
    write_json(recording.describe(), path)
    partial_path(path).unlink(missing_ok=True)


def load(path: Path, *, partial: bool = False) -> Recording:
    """Return the recording in ``path``.

    partial: accept one whose process ended before it was complete, with the cases it has. Raises
    RecordingError, by its kind, for anything that is not a recording of this schema in full;
    OSError where there is no file.
    """
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        raise TruncatedRecording(
            sentence(path.name, "empty", "a recording is a JSON object", "record again")
        )
    try:
        found = json.loads(text, parse_constant=_refuse_constant)
    except BadSamples as error:
        raise BadSamples(f"{path.name}: {error}") from None
    except ValueError as error:
        cut = getattr(error, "pos", 0) >= len(text.rstrip()) - 1
        kind = TruncatedRecording if cut else RecordingError
        rule = "the JSON ends too early" if cut else "must be JSON"
        raise kind(
            sentence(path.name, str(error), rule, "record again, or restore the file")
        ) from None
    recording = parse(found, path.name)
    if not recording.complete and not partial:
        raise TruncatedRecording(
            sentence(
                path.name,
                f"{len(recording.cases)} cases",
                "its recording ended before it was complete",
                "record again, or accept what there is with --partial",
            )
        )
    return recording


def parse(found: object, name: str) -> Recording:
    """Return the recording that ``found``, decoded JSON, is. Raises RecordingError."""
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise RecordingError(
            sentence(name, "another file", f'must be a JSON object of kind "{KIND}"', "pass one")
        )
    schema = found.get("schema")
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        fix = "upgrade graphrt" if newer else "record again"
        raise OtherSchema(
            sentence(f"{name}: schema", schema, f"this graphrt reads schema {SCHEMA}", fix)
        )
    if set(found) != set(_FIELDS):
        odd = sorted(set(found) ^ set(_FIELDS))
        _malformed(name, f"fields {', '.join(odd)} are missing or unknown")
    for field, kind in _FIELDS.items():
        if not isinstance(found[field], kind):
            _malformed(name, f"{field} must be {kind.__name__}")
    cases = [_case(case, name) for case in found["cases"]]
    if found["complete"] and not cases:
        raise BadSamples(
            sentence(name, "no case", "a recording without samples says nothing", "record again")
        )
    return Recording(
        label=found["label"],
        run=found["run"],
        device=found["device"],
        conditions=found["conditions"],
        settings=found["settings"],
        clocks=found["clocks"],
        cases={case.name: case for case in cases},
        complete=found["complete"],
    )


def _case(found: object, where: str) -> CaseRecord:
    if not isinstance(found, dict) or set(found) != _CASE_FIELDS:
        _malformed(where, f"a case must have {', '.join(sorted(_CASE_FIELDS))}")
    name = found["name"]
    series = _series(found["series"], where, name)
    if not series and found["failed"] is None:
        raise BadSamples(
            sentence(f"{where}: case {name}", "empty", "must hold samples", "record again")
        )
    yardsticks = _series(found["yardsticks"], where, name)
    return CaseRecord(name, found["what"], found["facts"], found["failed"], series, yardsticks)


def _series(found: Any, where: str, name: str) -> dict[Key, Samples]:
    series: dict[Key, Samples] = {}
    for one in found:
        if not isinstance(one, dict) or set(one) != _SERIES_FIELDS or one["unit"] != "us":
            _malformed(where, f"case {name}: a series must have quantity, part, unit us, samples")
        if one["quantity"] not in QUANTITIES:
            _malformed(where, f"case {name}: quantity {one['quantity']} is unknown")
        key = Key(one["quantity"], one["part"])
        check_samples(one["samples"], f"{where}: case {name}, {key}")
        series[key] = one["samples"]
    return series


def check_samples(samples: Any, where: str) -> None:
    """Raise BadSamples unless ``samples`` is a full box of finite numbers, not all zero."""
    try:
        sizes = {(len(build), len(block)) for build in samples for block in build}
        flat = [float(one) for build in samples for block in build for one in block]
    except TypeError:
        sizes, flat = set(), []
    if not flat:
        raise BadSamples(sentence(where, "empty", "must hold samples", "record again"))
    if len(sizes) != 1:
        raise BadSamples(
            sentence(where, sorted(sizes), "builds and blocks must be equally long", "record again")
        )
    if not all(map(math.isfinite, flat)):
        raise BadSamples(sentence(where, "not finite", "a time is a number", "record again"))
    if not any(flat):
        raise BadSamples(
            sentence(
                where, "all zero", "a clock that stands still measures nothing", "record again"
            )
        )


def _refuse_constant(text: str) -> NoReturn:
    raise BadSamples(sentence("samples", text, "a time is a finite number", "record again"))


def _malformed(name: str, rule: str) -> NoReturn:
    raise RecordingError(sentence(name, "malformed", rule, "record again"))
