# SPDX-License-Identifier: Apache-2.0
"""Write what every shipped launch configuration compiles to, for review and for the tests.

    python -m tools.static_facts           compile and write tests/golden/static_facts-triton-*.json
    python -m tools.static_facts --table   print the file of the installed Triton as a table

No GPU is needed. Each Triton release has a file of its own; the installed one's is written. For
another release put a folder that holds it before everything else: PYTHONPATH=FOLDER make facts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton

from graphrt.config import ChainShape, PdlLinks, RuntimeConfig
from graphrt.kernels.ahead import Launch, chain_launches
from graphrt.kernels.static_facts import Facts, static_facts
from graphrt.kernels.tuning import ChainLaunch, lookup

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
SUPPORTED_TRITON = ("3.6", "3.7")
CAPABILITIES = (90, 100)
LINKS = PdlLinks(conv1d=True, precompute=True, state_update=True)
# Each distinct configuration takes the tests a second a target; what is chosen only between two of
# these is not seen.
ROWS = (1, 4, 16, 64, 256, 1024)
_ENDS = (ROWS[0], ROWS[-1])

_BASE = RuntimeConfig(
    shape=ChainShape(heads=16, head_dim=64, state_dim=128),
    layers=1,
    slots=1,
    tokens=6,
    window=16,
    buckets=(1,),
    state_dtype=torch.float16,
    rounding="stochastic",
    device=torch.device("cpu"),
)
# (what is compiled, at which numbers of rows its configurations are looked up)
CASES: dict[str, tuple[RuntimeConfig, tuple[int, ...]]] = {
    "base": (_BASE, ROWS),
    "nearest": (replace(_BASE, rounding="nearest"), ROWS),
    "state_fp32": (replace(_BASE, state_dtype=torch.float32, rounding="nearest"), ROWS),
    "state_bf16": (replace(_BASE, state_dtype=torch.bfloat16, rounding="nearest"), _ENDS),
    "tokens_1": (replace(_BASE, tokens=1, launch_tokens=(1,)), _ENDS),
    "tokens_1_state_fp32": (
        replace(
            _BASE,
            tokens=1,
            launch_tokens=(1,),
            state_dtype=torch.float32,
            rounding="nearest",
        ),
        _ENDS,
    ),
    "whole_model": (
        replace(_BASE, shape=ChainShape(heads=128, head_dim=64, state_dim=128, groups=8)),
        ROWS[-1:],
    ),
    "activations_fp32": (
        replace(
            _BASE,
            activation_dtype=torch.float32,
            state_dtype=torch.float32,
            rounding="nearest",
        ),
        ROWS[:1],
    ),
}


@dataclass(frozen=True)
class Kernel:
    """One kernel as shipped for one target: a name, and the launch to compile it from."""

    name: str
    capability: int
    launch: Launch

    @property
    def target(self) -> str:
        """Return the target as tables and compilers name it."""
        return _target(self.capability)

    def facts(self) -> Facts:
        """Compile the kernel and return its facts."""
        return static_facts(self.launch.compile(self.capability))


def shipped_kernels() -> Iterator[Kernel]:
    """Yield every kernel that the cases launch, each distinct one under its first name."""
    seen = set()
    for case, (config, rows) in CASES.items():
        for capability in CAPABILITIES:
            for launch in _distinct_launches(config, rows, capability):
                for stage, made in chain_launches(config, config.tokens, launch, LINKS).items():
                    key = (capability, made.key())
                    if key not in seen:
                        seen.add(key)
                        yield Kernel(f"{case}: {stage}{_settings(launch, stage)}", capability, made)


def _distinct_launches(
    config: RuntimeConfig, rows: Sequence[int], capability: int
) -> list[ChainLaunch]:
    found = (
        lookup(
            config.shape,
            count,
            tokens=config.tokens,
            state_dtype=config.state_dtype,
            activation_dtype=config.activation_dtype,
            rounding=config.rounding,
            window=config.window,
            arch=_target(capability),
        )
        for count in rows
    )
    return list(dict.fromkeys(found))


def _target(capability: int) -> str:
    return f"sm_{capability}"


def _settings(launch: ChainLaunch, stage: str) -> str:
    """Return a stage's settings, those that are None left out. advance has none."""
    choice = getattr(launch, stage.removesuffix("_next"), None)
    settings = asdict(choice) if choice else {}
    return "".join(f" {name}={value}" for name, value in settings.items() if value is not None)


def golden_path(version: str = triton.__version__) -> Path:
    """Return where the facts of a Triton release are kept."""
    return GOLDEN / f"static_facts-triton-{release(version)}.json"


def release(version: str) -> str:
    """Return major.minor of a version."""
    return ".".join(version.split(".")[:2])


def measure() -> dict[str, Any]:
    """Compile everything and return what the file holds."""
    kernels: dict[str, dict[str, Facts]] = {}
    for kernel in shipped_kernels():
        print(f"{kernel.target} {kernel.name}", file=sys.stderr, flush=True)
        kernels.setdefault(kernel.name, {})[kernel.target] = kernel.facts()
    return {"triton": triton.__version__, "kernels": kernels}


def as_json(found: dict[str, Any]) -> str:
    """Return ``found`` as JSON with one section of one kernel a line, so that a diff is short."""
    lines = ["{", f' "triton": {json.dumps(found["triton"])},', ' "kernels": {']
    for name, by_target in found["kernels"].items():
        lines.append(f"  {json.dumps(name)}: {{")
        for target, facts in by_target.items():
            lines.append(f'   "{target}": {{')
            lines += [f'    "{section}": {json.dumps(facts[section])},' for section in facts]
            lines[-1] = lines[-1].removesuffix(",")
            lines.append("   },")
        lines[-1] = "   }"
        lines.append("  },")
    lines[-1] = "  }"
    return "\n".join([*lines, " }", "}"]) + "\n"


def table(found: dict[str, Any]) -> str:
    """Return one line a kernel and target. Counts are of instructions, wide loads are 16 bytes."""
    head = ("target", "regs", "stack", "spills", "shared", "wait", "signal", "loads", "wide")
    head = (*head, "after", "mma", "exp", "after", "bar", "instr", "kernel")
    rows = [head]
    for name, by_target in found["kernels"].items():
        for target, facts in by_target.items():
            rows.append((target, *map(str, _row(facts)), name))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        " ".join(text.rjust(width) for text, width in zip(row[:-1], widths, strict=False))
        + f"  {row[-1]}"
        for row in rows
    )


def _row(facts: Facts) -> tuple[int, ...]:
    """Return the numbers of `table`; "after" is how many of those before stand after the wait."""
    resources, order = facts["resources"], facts["order"]
    sections = [facts[name] for name in facts if name not in ("resources", "order")]
    late = [facts.get("after_wait", {})]

    def count(start: str, sections: list[dict[str, int]], holding: str = "") -> int:
        return sum(
            number
            for section in sections
            for opcode, number in section.items()
            if opcode.startswith(start) and holding in opcode
        )

    return (
        resources["registers"],
        resources["stack_bytes"],
        resources["spill_loads"] + resources["spill_stores"],
        resources["shared_bytes"],
        order["waits"],
        order["signals"],
        count("LDG", sections),
        count("LDG", sections, ".128"),
        count("LDG", late),
        sum(count(start, sections) for start in ("HMMA", "HGMMA", "UTC")),
        count("MUFU.EX2", sections),
        count("MUFU.EX2", late),
        count("BAR", sections),
        count("instructions", sections),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Write the installed Triton's file, or print it."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.static_facts", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--table", action="store_true", help="print the file, compile nothing")
    args = parser.parse_args(argv)
    path = golden_path()
    if args.table:
        if not path.is_file():
            print(f"{path.name}=missing: nothing to print; run `make facts`", file=sys.stderr)
            return 1
        print(table(json.loads(path.read_text(encoding="utf-8"))))
        return 0
    path.parent.mkdir(exist_ok=True)
    path.write_text(as_json(measure()), encoding="utf-8")
    print(f"{path}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
