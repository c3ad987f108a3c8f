# SPDX-License-Identifier: Apache-2.0
"""The rows of the chain tests: each changes one factor of the base case.

Sizes are otherwise the base's, small enough for hundreds of launches in a second. ``TWIN_ROWS`` has
every row; the interpreter and the GPU, which pay for each launch or each compilation, run the
selections named beside it.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from tests.helpers.cases import BASE, Case, one_factor

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32

# What is compiled ahead of time: a size that is served. Each bucket finds another of the default
# launch configurations.
RANK = replace(
    BASE,
    heads=16,
    head_dim=64,
    state_dim=128,
    groups=1,
    tokens=6,
    window=16,
    launch_tokens=(6,),
    activation_dtype=BF16,
    slots=64,
    buckets=(1, 32, 64),
)

SIZES = one_factor(
    base={},
    heads_1={"heads": 1, "groups": 1},
    groups_1={"groups": 1},
    groups_4={"groups": 4},
    heads_per_group_3={"heads": 6, "groups": 2},
    **{f"head_dim_{p}": {"head_dim": p} for p in (32, 64, 80, 96, 128)},
    head_dim_17={"head_dim": 17},
    **{f"state_dim_{n}": {"state_dim": n} for n in (18, 48, 64, 128, 256)},
    **{f"conv_width_{width}": {"conv_width": width} for width in (2, 3)},
    layers_2={"layers": 2},
)

LENGTHS = one_factor(
    tokens_1={"tokens": 1, "launch_tokens": (1,)},
    tokens_2={"tokens": 2, "launch_tokens": (1, 2)},
    tokens_6={"tokens": 6, "launch_tokens": (2, 4, 6)},
    tokens_16={"tokens": 16, "window": 16, "launch_tokens": (1, 16)},
    window_is_tokens={"window": 3},
    window_5={"window": 5},
    window_16={"window": 16},
    window_24={"tokens": 6, "window": 24, "launch_tokens": (4, 6)},
    window_32={"tokens": 6, "window": 32, "launch_tokens": (4, 6)},
    tokens_1_state_dim_64={"tokens": 1, "launch_tokens": (1,), "state_dim": 64},
    tokens_1_window_1={"tokens": 1, "launch_tokens": (1,), "window": 1},
    tokens_16_window_32={"tokens": 16, "window": 32, "launch_tokens": (5, 16)},
)

OPTIONS = one_factor(
    no_D={"has_D": False},
    no_z={"has_z": False},
    no_dt_bias={"has_dt_bias": False},
    no_conv_bias={"has_conv_bias": False},
    in_proj_slices={"layout": "in_proj"},
    transposed={"layout": "transposed"},
    every_second_column={"layout": "column"},
    dt_large={"dt_range": "large"},
    dt_very_negative={"dt_range": "very_negative"},
    dt_limits={"dt_min": 0.3, "dt_max": 0.8},
    dt_large_limited={"dt_range": "large", "dt_max": 0.1},
)

DTYPES = one_factor(
    bf16={"activation_dtype": BF16},
    fp16={"activation_dtype": FP16},
    bf16_fp32_weights={"activation_dtype": BF16, "weight_dtype": FP32},
    bf16_fp32_dt={"activation_dtype": BF16, "dt_dtype": FP32},
    state_bf16={"state_dtype": BF16},
    state_fp16={"state_dtype": FP16},
    state_bf16_stochastic={"state_dtype": BF16, "rounding": "stochastic"},
    state_fp16_stochastic={"state_dtype": FP16, "rounding": "stochastic"},
    all_bf16={"activation_dtype": BF16, "state_dtype": BF16},
    bf16_state_fp16={"activation_dtype": BF16, "state_dtype": FP16},
    fp16_state_bf16={"activation_dtype": FP16, "state_dtype": BF16},
    all_fp16_stochastic={
        "activation_dtype": FP16,
        "state_dtype": FP16,
        "rounding": "stochastic",
        "state_dim": 18,
        "layers": 2,
    },
    bf16_in_proj={"activation_dtype": BF16, "layout": "in_proj"},
)

TWIN_ROWS: dict[str, Case] = SIZES | LENGTHS | OPTIONS | DTYPES

assert TWIN_ROWS["base"] == BASE


# Every value of every factor, in as few compilations as that takes: one T where T is not the
# factor, sizes that do not interact in one row. What compiles to the same kernels costs nothing.
_GPU_SIZES = one_factor(
    heads_6_groups_2_head_dim_32_state_dim_48={
        "heads": 6,
        "groups": 2,
        "head_dim": 32,
        "state_dim": 48,
    },
    bf16_head_dim_64_state_dim_128={
        "head_dim": 64,
        "state_dim": 128,
        "activation_dtype": BF16,
        "tokens": 6,
        "window": 16,
    },
    groups_1_head_dim_80_state_dim_64={"groups": 1, "head_dim": 80, "state_dim": 64},
    head_dim_96_state_dim_256={"head_dim": 96, "state_dim": 256},
    heads_1_head_dim_128_state_dim_128={
        "heads": 1,
        "groups": 1,
        "head_dim": 128,
        "state_dim": 128,
    },
    bf16_fp32_weights_and_dt={
        "activation_dtype": BF16,
        "weight_dtype": FP32,
        "dt_dtype": FP32,
    },
)
_GPU_NAMES = (
    *("tokens_1", "tokens_1_state_dim_64", "tokens_16_window_32"),
    *("window_is_tokens", "window_24"),
    *("conv_width_2", "conv_width_3"),
    *("no_D", "no_z", "no_dt_bias", "no_conv_bias"),
    *("transposed", "every_second_column", "bf16_in_proj"),
    *("dt_large", "dt_very_negative", "dt_limits"),
    *("fp16", "state_bf16", "all_bf16", "bf16_state_fp16", "fp16_state_bf16"),
    "all_fp16_stochastic",
)
GPU_ROWS: dict[str, Case] = {"base": BASE} | {
    name: replace(case, launch_tokens=(case.tokens,))
    for name, case in (_GPU_SIZES | {name: TWIN_ROWS[name] for name in _GPU_NAMES}).items()
}

# The interpreter pays for each program of each launch: few rows and heads, a short window.
TINY = replace(BASE, heads=2, groups=1, slots=3, buckets=(1, 2), window=5)


def _tiny(case: Case) -> Case:
    """Return ``case`` with all but its own factor as in TINY."""
    names = ["heads", "groups", "slots", "buckets"]
    if case.tokens <= TINY.window:
        names.append("window")
    changed = {name: getattr(case, name) for name in names}
    base = {name: getattr(BASE, name) for name in names}
    kept = {name: getattr(TINY, name) for name in names if changed[name] == base[name]}
    if changed["heads"] != base["heads"] or changed["groups"] != base["groups"]:
        kept.pop("heads", None)
        kept.pop("groups", None)
    return replace(case, **kept)


INTERPRETED_ROWS = {name: _tiny(case) for name, case in TWIN_ROWS.items()}

# What single does and fused, with which it shares the rest, does not: it convolves, and takes its
# inputs as they come.
_CONVOLVING_NAMES = (
    *("base", "heads_per_group_3", "head_dim_17", "state_dim_18", "layers_2"),
    *("conv_width_2", "conv_width_3", "no_conv_bias", "tokens_1", "tokens_16"),
    *("in_proj_slices", "transposed", "bf16", "bf16_fp32_weights", "all_fp16_stochastic"),
)
CONVOLVING_ROWS = {name: INTERPRETED_ROWS[name] for name in _CONVOLVING_NAMES}
