# SPDX-License-Identifier: Apache-2.0
"""Rules of the repository itself: licence lines, rooms that may not know each other, no prints."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "graphrt"
SOURCES = sorted(
    path
    for folder in ("graphrt", "tests", "tools", "examples", "benchmarks")
    for path in (REPOSITORY / folder).rglob("*.py")
)
LIBRARY = sorted(PACKAGE.rglob("*.py"))

# What a person reads on a terminal is written here.
PRINTS = {
    "cli.py",
    "demo.py",
    "info.py",
    "inspect_cli.py",
    "bench/cli.py",
    "latency/cli.py",
    "models/cli.py",
}

# (the files a rule is for, what they may not import, why)
ROOM_RULES: list[tuple[str, tuple[str, ...], str]] = [
    ("errors.py", ("torch", "triton", "cuda", "graphrt"), "a leaf"),
    ("buckets.py", ("torch", "triton", "cuda"), "a leaf of pure Python"),
    ("ring.py", ("torch", "triton", "cuda"), "a leaf of pure Python"),
    ("config.py", ("triton", "cuda", "graphrt.kernels", "graphrt.capture"), "a leaf"),
    ("memory.py", ("triton", "cuda", "graphrt.kernels", "graphrt.capture"), "a leaf"),
    (
        "capture/*.py",
        ("graphrt.kernels", "graphrt.runtime", "graphrt.models"),
        "it captures any callable over static buffers",
    ),
    (
        "kernels/**/*.py",
        ("graphrt.capture", "graphrt.runtime", "graphrt.models", "graphrt.bench"),
        "the chain does not know how it is launched",
    ),
    ("cache.py", ("graphrt.capture", "graphrt.runtime", "graphrt.models"), "it only holds tensors"),
    ("runtime.py", ("graphrt.models",), "models stand above it"),
]


def imported_modules(source: str, package: str) -> Iterator[str]:
    """Yield every module that ``source``, a module of ``package``, imports anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -(node.level - 1) or None] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant))


def forbidden_imports(source: str, package: str, forbidden: tuple[str, ...]) -> list[str]:
    """Return what ``source`` imports of the modules ``forbidden`` and of what is inside them."""
    return [
        name
        for name in imported_modules(source, package)
        if any(name == module or name.startswith(f"{module}.") for module in forbidden)
    ]


def package_of(path: Path) -> str:
    """Return the dotted name of the package that the module at ``path`` is in."""
    return ".".join(path.parent.relative_to(REPOSITORY).parts)


def relative(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_the_first_line_is_the_licence(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# SPDX-License-Identifier: Apache-2.0\n")


def test_library_code_does_not_print() -> None:
    printing = [
        f"{relative(path)}:{node.lineno}"
        for path in LIBRARY
        if str(path.relative_to(PACKAGE)) not in PRINTS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert printing == []


@pytest.mark.parametrize(
    ("pattern", "forbidden", "why"), ROOM_RULES, ids=[rule[0] for rule in ROOM_RULES]
)
def test_rooms_do_not_know_each_other(pattern: str, forbidden: tuple[str, ...], why: str) -> None:
    paths = list(PACKAGE.glob(pattern))
    assert paths, f"graphrt/{pattern} names no file"
    for path in paths:
        source = path.read_text(encoding="utf-8")
        found = forbidden_imports(source, package_of(path), forbidden)
        assert not found, f"{relative(path)} imports {', '.join(found)}: {why}"


def test_only_the_driver_imports_cuda() -> None:
    importing = [
        str(path.relative_to(PACKAGE))
        for path in LIBRARY
        if forbidden_imports(path.read_text(encoding="utf-8"), package_of(path), ("cuda",))
    ]
    assert importing == ["capture/driver.py"]


def test_only_triton_functions_may_lack_annotations() -> None:
    """mypy is told to accept unannotated functions in kernels/, for the sake of jitted ones."""
    for path in (PACKAGE / "kernels").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            decorators = [ast.unparse(decorator).split("(")[0] for decorator in node.decorator_list]
            if {"triton.jit", "jit"} & set(decorators):  # the other is Gluon's
                continue
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [a.arg for a in arguments if not a.annotation and a.arg not in ("self", "cls")]
            where = f"{relative(path)}:{node.lineno} {node.name}"
            assert not bare, f"{where}: no annotation for {', '.join(bare)}"
            assert node.returns is not None, f"{where}: no return annotation"


@pytest.mark.parametrize(
    "source",
    [
        "import graphrt.kernels",
        "import graphrt.kernels.chain as chain",
        "from graphrt import kernels",
        "from graphrt.kernels import chain",
        "from ..kernels.chain import BoundChain",
        "from .. import kernels",
        "import_module('graphrt.kernels')",
        "importlib.import_module('graphrt.kernels.chain')",
        "def later():\n    from graphrt.kernels import chain",
        "if TYPE_CHECKING:\n    from graphrt.kernels.chain import BoundChain",
    ],
)
def test_every_way_to_import_a_room_is_seen(source: str) -> None:
    assert forbidden_imports(source, "graphrt.capture", ("graphrt.kernels",))


@pytest.mark.parametrize(
    "source", ["from . import kernels", "import graphrt.kernels_of_old", "import kernels"]
)
def test_a_like_name_is_not_the_room(source: str) -> None:
    assert not forbidden_imports(source, "graphrt.capture", ("graphrt.kernels",))
