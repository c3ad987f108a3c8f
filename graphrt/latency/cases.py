# SPDX-License-Identifier: Apache-2.0
"""The cases of the chain by default, as JSON, and with settings of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from graphrt.bench.cases import DTYPES, SHAPES, Case
from graphrt.config import ChainShape
from graphrt.errors import ConfigError, sentence

BATCHES = (1, 8, 64, 256)
_SHAPE = ("heads", "head_dim", "state_dim", "groups", "conv_width")
_SETTABLE = ("pdl", "window", "tokens", "state_dtype", "activation_dtype", "rounding", "history")


def default_cases(
    batches: Sequence[int] = BATCHES, *, shape: str = "rank", tokens: int = 6
) -> list[Case]:
    """Return one case a batch: fp16 state, bf16 activations, the histogram's history.

    Raises ConfigError for a shape that has no name.
    """
    if shape not in SHAPES:
        raise ConfigError(
            sentence("shape", shape, f"must be one of {', '.join(SHAPES)}", "choose one")
        )
    return [Case(shape=SHAPES[shape], batch=batch, tokens=tokens) for batch in batches]


def from_description(told: Mapping[str, Any]) -> Case:
    """Return the case that ``Case.describe`` told."""
    rest = {name: told[name] for name in told if name not in _SHAPE}
    for name in ("state_dtype", "activation_dtype"):
        rest[name] = DTYPES[rest[name]]
    return Case(shape=ChainShape(**{name: told[name] for name in _SHAPE}), **rest)


def with_settings(case: Case, settings: Sequence[str]) -> Case:
    """Return ``case`` with settings such as ``pdl=off`` or ``state_dtype=fp32``.

    Raises ConfigError for a name that cannot be set, or a value that it cannot have.
    """
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in _SETTABLE:
            raise ConfigError(
                sentence("setting", setting, f"must be one of {', '.join(_SETTABLE)}", "pdl=off")
            )
        case = replace(case, **{name: _value(name, text)})
    return case


def _value(name: str, text: str) -> Any:
    kinds = {field.name: str(field.type) for field in fields(Case)}
    if kinds[name] == "bool":
        choices: Mapping[str, Any] = {"on": True, "off": False}
    elif name.endswith("dtype"):
        choices = DTYPES
    elif kinds[name] == "int":
        if not text.isdecimal():
            raise ConfigError(sentence(name, text, "must be a whole number", f"{name}=16"))
        return int(text)
    else:
        return text
    if text not in choices:
        raise ConfigError(
            sentence(name, text, f"must be one of {', '.join(choices)}", "choose one")
        )
    return choices[text]
