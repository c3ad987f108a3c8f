# SPDX-License-Identifier: Apache-2.0
"""Build the FlashInfer kernels that `graphrt bench` compares with, for a machine without network.

    python -m tools.build_flashinfer DIR [--shape rank whole] [--state-dtype fp16 fp32] [--tokens 6]

Needs flashinfer-python importable, nvcc, and at link time libcudart and libcuda (a stub does); no
GPU. Writes into DIR the package's Python files, the sources its loader looks at, and one library a
kernel under flashinfer/data/aot, where it is loaded from without a compiler. See docs/benchmark.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from graphrt.bench.cases import DTYPES
from graphrt.bench.cli import parse_shape
from graphrt.config import ChainShape

# What the loader reads before it finds a built library.
SOURCES = ("checkpointing_ssu*", "selective_state_update*", "flashinfer_mamba_binding.cu")


def main(argv: Sequence[str] | None = None) -> int:
    """Build, copy, say what was done; return 0."""
    args = parse(argv)
    os.environ.setdefault("FLASHINFER_CUDA_ARCH_LIST", args.arch)
    package = Path(import_module("flashinfer").__file__ or "").parent
    specs = list(specs_of(args))
    into = args.into / "flashinfer"
    copy_package(package, into)
    with ThreadPoolExecutor(args.jobs) as pool:
        for spec in pool.map(build, specs):
            folder = into / "data" / "aot" / spec.name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy2(spec.jit_library_path, folder / f"{spec.name}.so")
    size = sum(path.stat().st_size for path in into.rglob("*") if path.is_file())
    say(f"{len(specs)} kernels, {size / 2**20:.0f} MiB under {into}")
    return 0


def specs_of(args: argparse.Namespace) -> Iterator[Any]:
    """Yield what builds each kernel that the adapters of graphrt.bench.peers load."""
    ring = import_module("flashinfer.jit.mamba.checkpointing_ssu").gen_checkpointing_ssu_module
    one = import_module("flashinfer.jit.mamba.selective_state_update")
    act, f32, i32, i64 = torch.bfloat16, torch.float32, torch.int32, torch.int64
    shapes: list[ChainShape] = [parse_shape(text) for text in args.shape]
    for shape, name, tokens in itertools.product(shapes, args.state_dtype, args.tokens):
        state, sizes = DTYPES[name], (shape.head_dim, shape.state_dim)
        groups = (shape.heads_per_group, shape.groups)
        for pdl in (True, False) if args.without_pdl else (True,):
            window = max(args.window, tokens)
            yield ring(
                state, act, act, f32, f32, i32, None, *sizes, tokens, window, *groups, 0, pdl
            )
        step = getattr(one, f"gen_selective_state_update_{args.module}_module")
        yield step(state, act, act, f32, i32, None, *sizes, tokens, i32, i64, 0)


def build(spec: Any) -> Any:
    """Build one kernel and return its spec."""
    begin = time.perf_counter()
    spec.build()
    say(f"{spec.name} in {time.perf_counter() - begin:.0f} s")
    return spec


def copy_package(package: Path, into: Path) -> None:
    """Copy the Python files and SOURCES: a tenth of the package."""
    chosen = [*package.rglob("*.py")]
    chosen = [path for path in chosen if "data" not in path.relative_to(package).parts]
    chosen += [path for name in SOURCES for path in (package / "data" / "csrc").glob(name)]
    for path in chosen:
        target = into / path.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.build_flashinfer", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("into", type=Path, metavar="DIR")
    parser.add_argument("--shape", nargs="+", default=["rank"], help="as graphrt bench")
    parser.add_argument("--state-dtype", nargs="+", choices=DTYPES, default=["fp16", "fp32"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[6])
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--without-pdl", action="store_true", help="also the ring without PDL")
    parser.add_argument("--arch", default="9.0a", help="as nvcc names it, default 9.0a")
    parser.add_argument("--module", default="sm90", help="sm90 or sm100")
    parser.add_argument("--jobs", type=int, default=2)
    return parser.parse_args(argv)


def say(line: str) -> None:
    """Tell the person who waits."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
