# SPDX-License-Identifier: Apache-2.0
"""``graphrt generate``: prompts from the command line, text on stdout, all else on stderr."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from graphrt.errors import ConfigError, sentence
from graphrt.models.bundled import bundled_model
from graphrt.models.decode import DecodeStats
from graphrt.models.generate import TextGenerator
from graphrt.models.in_order import InOrder

NEW_TOKENS = 200
TOKENS = 6
WINDOW = 16
MAX_SLOTS = 8
_PROMPT_SHOWN = 60


def main(args: argparse.Namespace) -> int:
    """Stream what continues ``args.prompts``, under headings if there are several; return 0."""
    directory = args.model or bundled_model()
    if not directory.is_dir():
        raise ConfigError(
            sentence("--model", directory, "must be a directory", "name one that is there")
        )
    prompts: list[str] = args.prompts
    with TextGenerator.from_directory(
        directory,
        device=args.device,
        slots=min(len(prompts), MAX_SLOTS),
        tokens=args.tokens or TOKENS,
        window=args.window or WINDOW,
        progress=_say,
    ) as generator:
        texts = InOrder(_write, headings(prompts))
        _, stats = generator.generate(prompts, args.new_tokens or NEW_TOKENS, on_text=texts.push)
        texts.close()
        _say(f"{summary(stats)}, on {generator.model.device}")
    return 0


def headings(prompts: Sequence[str]) -> list[str]:
    """Return what each prompt's text is to follow: nothing for a single one."""
    if len(prompts) == 1:
        return [""]
    shown = (
        prompt if len(prompt) <= _PROMPT_SHOWN else f"…{prompt[1 - _PROMPT_SHOWN :]}"
        for prompt in prompts
    )
    return [f"==> prompt {number} <== {text!r}\n" for number, text in enumerate(shown, start=1)]


def summary(stats: DecodeStats) -> str:
    """Return one line on what decoding cost."""
    return (
        f"{stats.new_tokens} tokens in {stats.seconds:.2f} s, "
        f"{stats.tokens_per_second:.0f} tokens per second, {stats.launches} launches, "
        f"{stats.tokens_per_launch:.2f} tokens per launch"
    )


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _say(line: object) -> None:
    print(line, file=sys.stderr)
