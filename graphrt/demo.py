# SPDX-License-Identifier: Apache-2.0
"""``graphrt demo``: the model in the package continues a few beginnings of Python files.

Each is decoded three times: speculatively, shown as it comes; then, both timed and not shown, one
token at a time and speculatively. All three must give the same tokens.

Weights, activations and states are fp32 on every device. Greedy decoding takes the largest logit,
and a matrix product over T tokens may add in another order than one over a single token: in bf16
the two best logits are often closer than that difference, in fp32 hardly ever. So what is compared
is the replay method, not the rounding of the model's own products.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import torch
from rich.console import Console

from graphrt.capture.buffers import nbytes
from graphrt.demo_prompts import PROMPTS
from graphrt.demo_result import Result, Run, summary
from graphrt.demo_view import open_view
from graphrt.errors import sentence
from graphrt.kernels.chain import runs_kernels
from graphrt.models.bundled import NAME, bundled_model
from graphrt.models.decode import Completion
from graphrt.models.generate import TextGenerator

NEW_TOKENS = 200
TOKENS = 6
WINDOW = 16
SLOTS = 4  # fewer than prompts: a slot that is released is admitted to again


def main(args: argparse.Namespace) -> int:
    """Run the demo; return 0, or 1 if a text is not the same as one token at a time."""
    console = Console(quiet=args.json, highlight=False)
    result = run(args, console)
    if args.json:
        print(json.dumps(asdict(result), indent=2))
    for table in summary(result):
        console.print()
        console.print(table)
    if result.difference:
        print(f"graphrt demo: {result.difference}", file=sys.stderr)
        return 1
    console.print(
        "\nEvery text is the same as one token at a time, "
        f"and came {result.speed_up:.2f} times as fast."
    )
    return 0


def run(args: argparse.Namespace, console: Console) -> Result:
    """Decode `PROMPTS`, showing them on ``console``, and return what was measured."""
    tokens = args.tokens or TOKENS
    limit = args.new_tokens or NEW_TOKENS
    prompts = list(PROMPTS.values())
    with TextGenerator.from_directory(
        bundled_model(),
        device=args.device,
        dtype=torch.float32,
        slots=SLOTS,
        tokens=tokens,
        window=args.window or WINDOW,
        launch_tokens=sorted({1, tokens}),
        progress=lambda captured: console.print(str(captured), soft_wrap=True),
    ) as generator:
        with open_view(console, PROMPTS) as view:
            shown, _ = generator.generate(prompts, limit, on_text=view.push)
        one_by_one, one_token = generator.generate(prompts, limit, tokens=1)
        unseen, speculative = generator.generate(prompts, limit)
        runtime = generator.runtime
        config = runtime.config
        return Result(
            device=device_name(config.device),
            backend=backend(config.device),
            model=f"{NAME}, {sum(p.numel() for p in generator.model.parameters()):,} parameters",
            window=config.window,
            buckets=config.buckets,
            launch_tokens=config.launch_tokens,
            capture_seconds=runtime.capture_seconds,
            cache_bytes=config.memory().total_bytes,
            buffer_bytes=sum(
                nbytes(runtime.buffers(bucket, count))
                for bucket in config.buckets
                for count in config.launch_tokens
            ),
            speculative=Run.of(tokens, speculative),
            one_token=Run.of(1, one_token),
            speed_up=speculative.tokens_per_second / one_token.tokens_per_second,
            texts={name: done.text for name, done in zip(PROMPTS, shown, strict=True)},
            difference=difference(shown, one_by_one) or difference(unseen, one_by_one),
        )


def difference(got: Sequence[Completion], expected: Sequence[Completion]) -> str | None:
    """Return a sentence on the first text whose tokens differ, None if there is none."""
    for name, ours, theirs in zip(PROMPTS, got, expected, strict=True):
        if (ours.token_ids, ours.stopped) == (theirs.token_ids, theirs.stopped):
            continue
        pairs = zip(ours.token_ids, theirs.token_ids, strict=False)
        agreed = next(
            (place for place, (a, b) in enumerate(pairs) if a != b),
            min(len(ours.token_ids), len(theirs.token_ids)),
        )
        return sentence(
            f"text of {name}",
            repr(ours.text),
            f"must be {theirs.text!r}, as one token at a time; new token {agreed + 1} differs",
            "report it together with what `graphrt info` prints",
        )
    return None


def device_name(device: torch.device) -> str:
    """Return what a person calls ``device``."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    return f"CPU, threads: {torch.get_num_threads()} (OMP_NUM_THREADS sets them)"


def backend(device: torch.device) -> str:
    """Return what runs the chain, and on the CPU why."""
    if device.type == "cuda":
        return "Triton kernels in CUDA graphs"
    if runs_kernels(device):
        return "Triton kernels, interpreted: for tests, very slow"
    return "PyTorch twins: the CPU default, there for correctness, not for speed"
