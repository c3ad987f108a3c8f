# SPDX-License-Identifier: Apache-2.0
"""Reading a model's tensors from safetensors files, whole or sharded; nothing is unpickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from graphrt.errors import CheckpointError, sentence
from graphrt.models.config import read_json

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_NAMES_SHOWN = 8


def read_checkpoint(
    directory: str | Path,
    expected: Mapping[str, torch.Size],
    optional: frozenset[str] = frozenset(),
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Return the tensors of ``directory`` by name, in their stored dtype, on ``device``.

    ``expected`` gives the name and shape of every tensor the model has; those in ``optional`` may
    be absent. The files are model.safetensors, or the shards that model.safetensors.index.json
    names. Raises CheckpointError naming every missing, unexpected and misshapen tensor at once, and
    for an absent or damaged file.
    """
    directory = Path(directory)
    tensors: dict[str, Tensor] = {}
    for path in _shards(directory):
        for name, tensor in _read_shard(path, device):
            if name in tensors:
                raise CheckpointError(
                    sentence("tensor", name, "is stored in two shards", "convert the model again")
                )
            tensors[name] = tensor
    problems = [
        *_listed("missing", expected.keys() - tensors.keys() - optional),
        *_listed("unexpected", tensors.keys() - expected.keys()),
        *_listed(
            "misshapen",
            {
                f"{name} {tuple(tensors[name].shape)} instead of {tuple(size)}"
                for name, size in expected.items()
                if name in tensors and tensors[name].shape != size
            },
        ),
    ]
    if problems:
        raise CheckpointError(
            f"tensors of {directory} do not match its config.json: {'; '.join(problems)}; "
            "use the config.json the model was saved with"
        )
    return tensors


def _shards(directory: Path) -> list[Path]:
    """Return the safetensors files of ``directory``, each once."""
    if (directory / _WHOLE).is_file():
        return [directory / _WHOLE]
    if not (directory / _INDEX).is_file():
        pickled = sorted(path.name for path in directory.glob("*.bin"))
        rule = f"holds neither {_WHOLE} nor {_INDEX}"
        if pickled:
            rule += f", and pickled files ({', '.join(pickled)}) are never read"
        raise CheckpointError(
            sentence("model directory", directory, rule, "save the model as safetensors")
        )
    weight_map = read_json(directory / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            sentence(
                "weight_map", weight_map, f"{_INDEX} must map names to files", "fetch it again"
            )
        )
    shards = []
    for name in sorted({str(name) for name in weight_map.values()}):
        # A shard is a file beside its index: a path could point anywhere.
        if Path(name).name != name or not (directory / name).is_file():
            raise CheckpointError(
                sentence("shard", name, f"is not a file in {directory}", "fetch every shard")
            )
        shards.append(directory / name)
    return shards


def _read_shard(path: Path, device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            for name in file.keys():  # noqa: SIM118 -- not a mapping
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise CheckpointError(
            sentence(
                "model file", path, f"is no valid safetensors file ({error})", "fetch it again"
            )
        ) from error


def _listed(what: str, names: set[str]) -> list[str]:
    """Return one phrase naming the first few of ``names``, or nothing."""
    if not names:
        return []
    shown = sorted(names)[:_NAMES_SHOWN]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return [f"{what}: {', '.join(shown)}{more}"]
