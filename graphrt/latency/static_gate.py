# SPDX-License-Identifier: Apache-2.0
"""Latency without a GPU: what the byte model and the tuning table predict, and whether it rises.

    chain = bytes of the floor / bandwidth + bytes read again by other tiles / L2 + boundaries

Where the tuning table measured the case itself, or one near it, its microseconds are taken, scaled
by the model's ratio of the two. A prediction is no measurement: what it can tell is that a change
of shapes, tiles or table entries costs more than before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

import graphrt.kernels.tuning as tuning
from graphrt.bench.cases import SHAPES, Case
from graphrt.bench.histories import found, mean
from graphrt.bench.jsonfile import write_json
from graphrt.bench.traffic import Traffic, floor_bytes
from graphrt.errors import sentence
from graphrt.kernels.tuning import ChainLaunch, Key, dtype_name
from graphrt.latency.errors import OtherSchema, RecordingError

KIND = "graphrt latency prediction"
SCHEMA = 1
BATCHES = (1, 4, 16, 64, 256, 1024)

# Of an H200, see docs/design.md: a copy's bandwidth; three near-empty kernels in a long graph, with
# PDL. L2 is taken to be this many times faster.
_BYTES_PER_US = 4.25e6
_BOUNDARIES_US = 2.8
_L2_TIMES = 2.5


def cases() -> Iterator[tuple[str, Case]]:
    """Yield the cases that are predicted, with their names."""
    for shape in ("rank", "whole"):
        for state in (torch.float16, torch.float32):
            for batch in BATCHES:
                case = Case(shape=SHAPES[shape], batch=batch, state_dtype=state)
                yield f"{shape}, {dtype_name(state)} state, batch {batch}", case


def predictions(arch: str) -> dict[str, Any]:
    """Return the predicted microseconds of every case on ``arch``, as JSON has them."""
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "arch": arch,
        "cases": {name: predict(case, arch, _entries(arch)) for name, case in cases()},
    }


def predict(case: Case, arch: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return ``us`` of one layer's chain, and ``from``: table, exact or nearest, or the model."""
    launch = tuning.find(case.key(), arch, case.window)
    us = scaled(case, launch, entries) if launch.match != "default" else None
    source = f"table, {launch.match}"
    if us is None:
        us, source = model_us(case, launch), f"model, {launch.match} tuning"
    return {"us": round(us, 3), "from": source, "choice": launch.choice()}


def scaled(case: Case, launch: ChainLaunch, entries: list[dict[str, Any]]) -> float | None:
    """Return the nearest measurement of ``launch`` in a table's entries, scaled to ``case``.

    None where nothing like it was measured.
    """
    key = case.key()
    most = max((Key(**entry["key"]).row_heads for entry in entries), default=0)
    near = [
        (key.distance(Key(**entry["key"]), most), index)
        for index, entry in enumerate(entries)
        if entry["choice"] == launch.choice()
    ]
    distance, index = min(near, default=(math.inf, 0))
    if math.isinf(distance):
        return None
    entry = entries[index]
    there = replace(
        case,
        tokens=entry["key"]["tokens"],
        batch=entry["measured_at"]["batch"],
        window=entry["measured_at"]["window"],
    )
    measured_us: float = entry["measured_us"]["chain"]
    return measured_us * model_us(case, launch) / model_us(there, launch)


def model_us(case: Case, launch: ChainLaunch) -> float:
    """Return what the byte model says of one layer's chain."""
    floor = floor_bytes(case)["chain"] / _BYTES_PER_US
    again = reread_bytes(case, launch) / (_L2_TIMES * _BYTES_PER_US)
    return floor + again + _BOUNDARIES_US


def reread_bytes(case: Case, launch: ChainLaunch) -> float:
    """Return the bytes that tiles read again after another tile of the same row has.

    precompute: B and C, new and old, by every tile of a group's heads after the first. state
    update: C by every program of a group after the first, the causal matrix by every tile of a
    head's P after the first. fused, single: B and C by every program of a group after the first,
    and by single those that its convolution remembers.
    """
    shape, size = case.shape, Traffic.of(case)
    held = float(mean(found(case.history, case.tokens, case.window)))
    b_token = shape.groups * shape.state_dim * case.activation_dtype.itemsize
    per_group = shape.heads // shape.groups
    head_tiles = -(-per_group // launch.precompute.block_heads)
    tiles = -(-shape.head_dim // launch.state_update.block_head_dim)
    c_group = case.tokens * shape.state_dim * case.activation_dtype.itemsize
    causal_head = case.tokens * (held + case.tokens) * 4
    whole = launch.single or launch.fused
    if whole is not None:
        tiles = -(-shape.head_dim // whole.block_head_dim)
        remembered = 2 * b_token * (shape.conv_width - 1) if launch.single else 0
        return case.batch * (per_group * tiles - 1) * (size.bc + held * b_token + remembered)
    precompute = (head_tiles - 1) * (size.bc + held * b_token)
    state_update: float = (per_group * tiles - 1) * shape.groups * c_group
    state_update += (tiles - 1) * shape.heads * causal_head
    return case.batch * (precompute + state_update)


def risen(old: Mapping[str, Any], new: Mapping[str, Any], minimum_effect: float) -> list[str]:
    """Return one line for every case predicted to cost more, or no longer predicted.

    Those of `incomparable` are left out.
    """
    lines = []
    for name, was in old["cases"].items():
        now = new["cases"].get(name)
        if now is None:
            lines.append(f"{name}: is not predicted any more")
        elif _measured(was) is _measured(now) and now["us"] > was["us"] * (1 + minimum_effect):
            share = now["us"] / was["us"] - 1
            causes = [
                f"{stage} was {was['choice'][stage]}, is {now['choice'][stage]}"
                for stage in was["choice"]
                if now["choice"].get(stage) != was["choice"][stage]
            ]
            if was["from"] != now["from"]:
                causes.append(f"from {was['from']}, now from {now['from']}")
            why = "; ".join(causes) or "the launch is the same, its bytes or table entry are not"
            lines.append(f"{name}: {was['us']:.2f} → {now['us']:.2f} µs ({share:+.1%}), {why}")
    return lines


def incomparable(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the cases predicted from a measurement on one side and the model alone on the other.

    Such are all of them when a tuning table was added: the old predictions must be written anew.
    """
    return [
        name
        for name, was in old["cases"].items()
        if name in new["cases"] and _measured(was) is not _measured(new["cases"][name])
    ]


def read(path: Path) -> dict[str, Any]:
    """Return the predictions in ``path``. Raises RecordingError for another file."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordingError(
            sentence(path.name, str(error), "must be JSON", "write anew")
        ) from None
    if not isinstance(told, dict) or told.get("kind") != KIND:
        raise RecordingError(sentence(path.name, "another file", f"must be a {KIND}", "pass one"))
    if told.get("schema") != SCHEMA:
        raise OtherSchema(
            sentence(f"{path.name}: schema", told.get("schema"), f"must be {SCHEMA}", "write anew")
        )
    return dict(told)


def write(told: dict[str, Any], path: Path) -> None:
    """Write predictions."""
    write_json(told, path)


def _measured(told: Mapping[str, Any]) -> bool:
    return str(told["from"]).startswith("table")


def _entries(arch: str) -> list[dict[str, Any]]:
    path = files(tuning) / f"{arch}.json"
    if not path.is_file():
        return []
    return list(json.loads(path.read_text(encoding="utf-8"))["entries"])
