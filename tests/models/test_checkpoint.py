# SPDX-License-Identifier: Apache-2.0
"""Tensors come back from whole and sharded files, and whatever does not fit is named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from graphrt.errors import CheckpointError
from graphrt.models.checkpoint import read_checkpoint
from graphrt.models.mamba2 import Mamba2LM
from tests.models.hugging_face import make_model, save_model

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
EXPECTED = {name: tensor.shape for name, tensor in TENSORS.items()}


def save(directory: Path, tensors: dict[str, Tensor], name: str = "model.safetensors") -> None:
    save_file(tensors, directory / name)


def save_index(directory: Path, weight_map: object) -> None:
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def check(tensors: dict[str, Tensor]) -> None:
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == TENSORS[name].dtype and torch.equal(tensor, TENSORS[name])


def test_a_whole_file(tmp_path: Path) -> None:
    save(tmp_path, TENSORS)
    check(read_checkpoint(tmp_path, EXPECTED))


def test_shards(tmp_path: Path) -> None:
    for name, tensor in TENSORS.items():
        save(tmp_path, {name: tensor}, f"{name}.safetensors")
    save_index(tmp_path, {name: f"{name}.safetensors" for name in TENSORS})
    check(read_checkpoint(tmp_path, EXPECTED))


def test_sharded_by_transformers(tmp_path: Path) -> None:
    model = make_model()
    save_model(model, tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    ids = torch.tensor([[1, 2, 3]])
    whole = Mamba2LM.from_pretrained(save_model(model, tmp_path / "whole"), device="cpu")
    shards = Mamba2LM.from_pretrained(tmp_path / "shards", device="cpu")
    assert torch.equal(whole(ids), shards(ids))


def test_names_everything_that_does_not_fit_at_once(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(3, 2), "c": torch.ones(1)})
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path, EXPECTED)
    for part in ("missing: b", "unexpected: c", "misshapen: a (3, 2) instead of (2, 3)"):
        assert part in str(caught.value)


def test_names_a_few_and_counts_the_rest(tmp_path: Path) -> None:
    save(tmp_path, TENSORS)
    more = {f"layer.{i:02}": torch.Size([1]) for i in range(20)}
    with pytest.raises(CheckpointError, match=r"layer\.00, .*layer\.07 and 12 more"):
        read_checkpoint(tmp_path, EXPECTED | more)


def test_a_shard_that_lacks_its_tensor(tmp_path: Path) -> None:
    save(tmp_path, {"a": TENSORS["a"]}, "one.safetensors")
    save_index(tmp_path, {"a": "one.safetensors", "b": "one.safetensors"})
    with pytest.raises(CheckpointError, match="missing: b"):
        read_checkpoint(tmp_path, EXPECTED)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    save(tmp_path, TENSORS, "one.safetensors")
    save(tmp_path, TENSORS, "two.safetensors")
    save_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    with pytest.raises(CheckpointError, match="two shards"):
        read_checkpoint(tmp_path, EXPECTED)


@pytest.mark.parametrize("shard", ["gone.safetensors", "../model.safetensors", "/etc/hostname"])
def test_shards_lie_beside_their_index(tmp_path: Path, shard: str) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    save(tmp_path, TENSORS)
    save_index(directory, dict.fromkeys(TENSORS, shard))
    with pytest.raises(CheckpointError, match="shard="):
        read_checkpoint(directory, EXPECTED)


@pytest.mark.parametrize("weight_map", [None, {}, ["a"]])
def test_a_malformed_index(tmp_path: Path, weight_map: object) -> None:
    save_index(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match="weight_map"):
        read_checkpoint(tmp_path, EXPECTED)


def test_pickles_are_refused_unopened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(tmp_path / "sprung"), "w")

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.* never read.*safetensors"):
        read_checkpoint(tmp_path, EXPECTED)
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no valid safetensors"):
        read_checkpoint(tmp_path, EXPECTED)
    assert not (tmp_path / "sprung").exists()


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        read_checkpoint(tmp_path, EXPECTED)


def test_a_truncated_file(tmp_path: Path) -> None:
    save(tmp_path, TENSORS)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="no valid safetensors"):
        read_checkpoint(tmp_path, EXPECTED)


def test_an_optional_tensor_may_be_there_or_not(tmp_path: Path) -> None:
    save(tmp_path, TENSORS)
    more = {"head": torch.Size([2])}
    check(read_checkpoint(tmp_path, EXPECTED | more, frozenset(more)))
    save(tmp_path, TENSORS | {"head": torch.ones(2)})
    assert "head" in read_checkpoint(tmp_path, EXPECTED | more, frozenset(more))


def test_tied_models_may_store_the_head_again(tmp_path: Path) -> None:
    save_model(make_model(tie_word_embeddings=True), tmp_path)
    plain = Mamba2LM.from_pretrained(tmp_path, device="cpu")
    tensors = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["backbone.embeddings.weight"].clone()
    save(tmp_path, tensors)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(Mamba2LM.from_pretrained(tmp_path, device="cpu")(ids), plain(ids))


def test_a_tied_model_with_another_head_is_refused(tmp_path: Path) -> None:
    save_model(make_model(tie_word_embeddings=True), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["backbone.embeddings.weight"] + 1
    save(tmp_path, tensors)
    with pytest.raises(CheckpointError, match="tie_word_embeddings=True"):
        Mamba2LM.from_pretrained(tmp_path, device="cpu")


def test_an_untied_model_needs_its_head(tmp_path: Path) -> None:
    save_model(make_model(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    save(tmp_path, tensors)
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.weight"):
        Mamba2LM.from_pretrained(tmp_path, device="cpu")
