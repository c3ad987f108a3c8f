# SPDX-License-Identifier: Apache-2.0
"""Random small models of transformers', saved where graphrt's loader finds them."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from transformers import Mamba2Config, Mamba2ForCausalLM
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()

SMALL: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_heads": 4,
    "head_dim": 16,
    "state_size": 16,
    "num_hidden_layers": 3,
    "n_groups": 1,
    "chunk_size": 32,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def make_model(**fields: Any) -> Mamba2ForCausalLM:
    """Return a random model in which every parameter matters: no bias is 0, no norm weight 1."""
    torch.manual_seed(0)
    model = Mamba2ForCausalLM(Mamba2Config(**(SMALL | fields))).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and not name.endswith("A_log"):
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def save_model(model: Mamba2ForCausalLM, directory: Path, **options: Any) -> Path:
    """Save ``model`` to ``directory`` and return it."""
    model.save_pretrained(directory, **options)
    return directory


def require_grouped_norm(model: Mamba2ForCausalLM) -> None:
    """Skip where transformers' gated norm takes all groups together: 5.17 did, 5.23 does not."""
    grouped = "group_size" in inspect.signature(MambaRMSNormGated).parameters
    if model.config.n_groups > 1 and not grouped:
        pytest.skip("this transformers normalises all groups together, newer ones each alone")


@torch.no_grad()
def whole_logits(model: Mamba2ForCausalLM, ids: Tensor) -> Tensor:
    """Return logits (batch, L, vocab) of one pass over the whole text, no cache in the way."""
    require_grouped_norm(model)
    logits: Tensor = model(ids, use_cache=False).logits
    return logits


def greedy_ids(model: Mamba2ForCausalLM, prompt: list[int], new_tokens: int) -> list[int]:
    """Return transformers' greedy continuation, its end token included.

    Without its cache where dt is limited: the PyTorch path of its cached step takes no limit.
    """
    require_grouped_norm(model)
    limited = tuple(model.config.time_step_limit) != (0.0, float("inf"))
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        use_cache=not limited,
    )
    return out[0, len(prompt) :].tolist()
