# SPDX-License-Identifier: Apache-2.0
"""The bytes of every tensor are known before anything is allocated."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from graphrt import memory
from graphrt.cache import ReplayCache
from graphrt.config import RuntimeConfig
from graphrt.errors import MemoryPlanError
from graphrt.memory import MemoryPlan, format_bytes, plan_memory
from tests.helpers.cases import BASE, Case
from tests.helpers.rows import BF16, FP16

CPU = torch.device("cpu")
CASES = {
    "fp32": BASE,
    "bf16": replace(BASE, activation_dtype=BF16, layers=3),
    "all_16_bit": replace(BASE, activation_dtype=BF16, state_dtype=FP16, head_dim=80, state_dim=48),
    "tokens_16": replace(BASE, tokens=16, window=32, launch_tokens=(16,), groups=1),
}


def allocated(cache: ReplayCache) -> dict[str, Tensor]:
    """Return the cache's tensors by the names that its plan has for them."""
    config = cache.config
    scratch = cache.scratch(config.buckets[-1], config.tokens)
    owners = (cache, cache.cursors, scratch)
    return {
        tensor.name: next(getattr(o, tensor.name) for o in owners if hasattr(o, tensor.name))
        for tensor in cache.plan.tensors
    }


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_plan_is_what_is_allocated(case: Case) -> None:
    cache = ReplayCache(case.config("cpu"))
    tensors = allocated(cache)
    assert cache.nbytes() == {
        name: tensor.numel() * tensor.dtype.itemsize for name, tensor in tensors.items()
    }
    for planned in cache.plan.tensors:
        tensor = tensors[planned.name]
        assert tuple(tensor.shape) == planned.shape and tensor.dtype == planned.dtype
        assert tensor.untyped_storage().nbytes() == planned.nbytes, planned.name
    assert cache.plan.total_bytes == sum(cache.nbytes().values())


def test_the_shapes_are_those_of_the_design() -> None:
    case = replace(BASE, layers=3, activation_dtype=BF16, state_dtype=FP16)
    plan, act = plan_memory(case.config("cpu")), BF16
    conv_dim = 4 * 16 + 2 * 2 * 16
    expected = {
        "state": ((3, 5, 4, 16, 16), FP16),
        "x_ring": ((3, 5, 4, 11, 16), act),
        "b_ring": ((3, 5, 2, 11, 16), act),
        "dt_ring": ((3, 5, 4, 11), torch.float32),
        "conv_ring": ((3, 5, 6, conv_dim), act),
        "rand_seed": ((5,), torch.int64),
        "conv_out": ((4, 3, conv_dim), act),
        "read_c": ((4, 2, 3, 16), FP16),
        "causal": ((4, 4, 2, 3, 24), torch.bfloat16),
        "decay": ((4, 4, 3), torch.float32),
        "fold_weight": ((4, 4, 16), torch.float32),
        "fold_decay": ((4, 4), torch.float32),
        "row_cursors": ((4, 8), torch.int64),
    }
    cursors = ("held", "ring_start", "conv_pos", "flushed", "last_tokens", "accepted")
    expected |= {name: ((5,), torch.int32) for name in cursors}
    assert {t.name: (t.shape, t.dtype) for t in plan.tensors} == expected


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_slot_costs_what_one_more_slot_adds(case: Case) -> None:
    plan = plan_memory(case.config("cpu"))
    larger = plan_memory(replace(case, slots=case.slots + 1).config("cpu"))
    assert larger.total_bytes - plan.total_bytes == plan.slot_bytes


def huge() -> RuntimeConfig:
    return replace(BASE, slots=1 << 40, buckets=(4,)).config("cpu")


def test_what_does_not_fit_is_refused_before_anything_is_allocated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def allocating(*args: object, **kwargs: object) -> Tensor:
        raise AssertionError("allocated")

    monkeypatch.setattr(torch, "zeros", allocating)
    monkeypatch.setattr(torch, "full", allocating)
    with pytest.raises(MemoryPlanError, match=r"^memory=.* TiB: cpu has .* free; "):
        ReplayCache(huge())


@pytest.mark.parametrize(
    ("changed", "largest", "lower"),
    [
        ({}, "state", "slots, layers or the state dtype's width"),
        ({"window": 32, "head_dim": 16, "groups": 1}, "x_ring", "slots, layers or window"),
        ({"groups": 4, "window": 32}, "x_ring", "slots, layers or window"),
    ],
)
def test_the_refusal_names_the_largest_tensor_and_what_to_lower(
    changed: dict[str, int], largest: str, lower: str
) -> None:
    plan = plan_memory(replace(BASE, **changed).config("cpu"))
    assert max(plan.tensors, key=lambda t: t.nbytes).name == largest
    plan.check_fits(plan.total_bytes, CPU)
    with pytest.raises(MemoryPlanError) as refused:
        plan.check_fits(plan.total_bytes - 1, CPU)
    said = str(refused.value)
    assert f"the largest tensor is {largest} {plan[largest].shape}" in said
    assert said.endswith(f"lower {lower}")
    assert isinstance(refused.value, MemoryError)


def test_scratch_can_be_the_largest_tensor() -> None:
    plan = plan_memory(
        replace(BASE, slots=64, buckets=(64,), tokens=16, window=32, launch_tokens=(16,)).config(
            CPU
        )
    )
    scratch = max((t for t in plan.tensors if not t.per_slot), key=lambda t: t.nbytes)
    only_scratch = MemoryPlan((scratch,), plan.slots)
    with pytest.raises(MemoryPlanError, match=r"lower the largest bucket or tokens$"):
        only_scratch.check_fits(0, CPU)


def test_the_table_has_every_tensor_and_the_totals() -> None:
    plan = plan_memory(BASE.config("cpu"))
    lines = str(plan).splitlines()
    assert [line.split()[0] for line in lines] == [*(t.name for t in plan.tensors), "a", "total"]
    assert lines[0].split()[-2:] == format_bytes(plan["state"].nbytes).split()
    assert lines[-1].endswith(format_bytes(plan.total_bytes))
    assert lines[-2].endswith(format_bytes(plan.slot_bytes))


@pytest.mark.parametrize(
    ("count", "written"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (3 << 29, "1.5 GiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 52, "4096.0 TiB"),
    ],
)
def test_bytes_are_written_in_the_largest_unit(count: int, written: str) -> None:
    assert format_bytes(count) == written


def test_free_memory_of_the_cpu_is_what_the_system_calls_available() -> None:
    assert 0 < memory.free_bytes(CPU) < 1 << 50


@pytest.mark.gpu
def test_what_pytorch_keeps_unused_counts_as_free() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.empty_cache()
    before = memory.free_bytes(device)
    kept = torch.empty(1 << 28, dtype=torch.uint8, device=device)
    held = memory.free_bytes(device)
    assert before - held >= kept.nbytes
    del kept
    assert memory.free_bytes(device) - held >= 1 << 28
