# SPDX-License-Identifier: Apache-2.0
"""Reports as JSON: written compactly, read strictly.

The file says what it is (``format``) and by which schema. Reading checks every field against the
types of `graphrt.capture.inspect.report` and raises ReportError naming the first that does not fit.
Fields that hold their default are left out.
"""

from __future__ import annotations

import dataclasses
import enum
import gzip
import json
import types
import typing
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from graphrt.capture.inspect.report import SCHEMA, Report
from graphrt.errors import ReportError, sentence

FORMAT = "graphrt graph report"
_GZIP = b"\x1f\x8b"
_READ = "write the report again with graphrt.capture.save"


def dumps(report: Report) -> str:
    """Return ``report`` as JSON, one node, edge list or buffer a line."""
    head = {"format": FORMAT, "schema": SCHEMA}
    return _lines({**head, **_plain(report)}, 0) + "\n"


def loads(text: str, name: str = "report") -> Report:
    """Return the report that ``text`` holds; ``name`` is what errors call it.

    Raises ReportError for text that is not JSON (a truncated file), that is no report, that is of
    a newer schema, or that breaks this schema.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReportError(
            sentence(name, "not JSON", f"a report is one JSON object ({error})", _READ)
        ) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ReportError(
            sentence(
                name, type(data).__name__, f'a report says "format": "{FORMAT}"', "pass a report"
            )
        )
    schema = data.get("schema")
    if type(schema) is not int or schema < 1:
        raise ReportError(sentence(f"{name}.schema", schema, "must be a whole number ≥ 1", _READ))
    if schema > SCHEMA:
        raise ReportError(
            sentence(
                f"{name}.schema",
                schema,
                f"this graphrt reads schemas up to {SCHEMA}",
                "read it with the graphrt that wrote it, or a newer one",
            )
        )
    fields = {key: value for key, value in data.items() if key not in ("format", "schema")}
    report = _read(Report, fields, name)
    _check_indices(report, name)
    return typing.cast(Report, report)


def save(report: Report, path: str | Path) -> None:
    """Write ``report`` to ``path``, compressed if the name ends in .gz."""
    path = Path(path)
    data = dumps(report).encode()
    # Without a date the same report is the same file.
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def load(path: str | Path) -> Report:
    """Read a report from ``path``, compressed or not.

    Raises ReportError as `loads` does, OSError for no file.
    """
    data = Path(path).read_bytes()
    try:
        text = (gzip.decompress(data) if data.startswith(_GZIP) else data).decode()
    except UnicodeDecodeError as error:
        raise ReportError(sentence(str(path), "not text", str(error), "pass a report")) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ReportError(sentence(str(path), "broken gzip", str(error), _READ)) from error
    return loads(text, str(path))


# --- writing -------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not _is_default(field, getattr(value, field.name))
        }
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return dict(value)
    return value


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        return bool(value == field.default)
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return False


def _lines(value: Any, depth: int) -> str:
    """Return JSON that is opened up to the fourth level and keeps each deeper value on a line."""
    if depth == 4 or not isinstance(value, (dict, list)) or not value:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    indent, end = " " * (depth + 1), " " * depth
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_lines(item, depth + 1)}" for key, item in value.items()]
        opening, closing = "{", "}"
    else:
        items = [_lines(item, depth + 1) for item in value]
        opening, closing = "[", "]"
    return opening + "\n" + ",\n".join(indent + item for item in items) + f"\n{end}{closing}"


# --- reading -------------------------------------------------------------------------------------


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _read(kind: Any, value: Any, path: str) -> Any:
    """Return ``value`` as ``kind``, or raise ReportError naming ``path``."""
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        inner = next(arg for arg in typing.get_args(kind) if arg is not type(None))
        return None if value is None else _read(inner, value, path)
    if origin is tuple:
        return _read_tuple(typing.get_args(kind), value, path)
    if origin is Mapping:
        _require(isinstance(value, dict), path, value, "must be an object")
        inner = typing.get_args(kind)[1]
        return {key: _read(inner, item, f"{path}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(typing.cast(type, kind), value, path)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        known = [member.value for member in kind]
        _require(value in known, path, value, f"must be one of {', '.join(known)}")
        return kind(value)
    if kind is float:
        _require(type(value) in (int, float), path, value, "must be a number")
        return float(value)
    _require(type(value) is kind, path, value, f"must be of type {kind.__name__}")
    return value


def _read_tuple(args: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    _require(isinstance(value, list), path, value, "must be a list")
    if args[-1] is Ellipsis:
        return tuple(_read(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    _require(len(value) == len(args), path, value, f"must hold {len(args)} values")
    return tuple(
        _read(arg, item, f"{path}[{i}]")
        for i, (arg, item) in enumerate(zip(args, value, strict=True))
    )


def _read_dataclass(cls: type, value: Any, path: str) -> Any:
    _require(isinstance(value, dict), path, value, "must be an object")
    known = _hints(cls)
    for key in value:
        _require(key in known, f"{path}.{key}", "present", f"{cls.__name__} has no such field")
    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            _require(field.name in value, f"{path}.{field.name}", "missing", "must be there")
    return cls(**{key: _read(known[key], item, f"{path}.{key}") for key, item in value.items()})


def _check_indices(report: Report, name: str) -> None:
    """Require that whatever is named by its number exists."""
    _require(bool(report.bodies), f"{name}.bodies", "[]", "the first is the graph itself")
    for index, body in enumerate(report.bodies):
        path = f"{name}.bodies[{index}]"
        for place, node in enumerate(body.nodes):
            where = f"{path}.nodes[{place}]"
            _require(node.id == place, f"{where}.id", node.id, "must be its place in the list")
            for inner in node.bodies:
                there = index < inner < len(report.bodies)
                _require(there, f"{where}.bodies", inner, "must be a later body")
            if node.kernel is None:
                continue
            function = node.kernel.function
            there = 0 <= function < len(report.functions)
            _require(there, f"{where}.kernel.function", function, "must be one of functions")
        count = len(body.nodes)
        for edge in body.edges:
            there = 0 <= edge.source < count and 0 <= edge.target < count
            _require(there, f"{path}.edges", (edge.source, edge.target), "must join two nodes")


def _require(met: bool, path: str, got: Any, rule: str) -> None:
    if not met:
        shown = repr(got)
        raise ReportError(
            sentence(path, shown if len(shown) < 60 else shown[:57] + "…", rule, _READ)
        )
