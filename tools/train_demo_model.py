# SPDX-License-Identifier: Apache-2.0
"""Train the demo's byte-level Mamba-2 language model on the standard library's sources.

    python -m tools.train_demo_model --out DIR --minutes 7

The data are the .py files of a Python's standard library, its tests included. The model is stored
as Hugging Face stores Mamba-2, in bf16, so that `graphrt generate --model DIR` takes it like any
other; DIR/training_report.json says what it was trained on and its held-out bits per byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from graphrt.models.config import Mamba2Config
from graphrt.models.mamba2 import Mamba2LM

END_TOKEN = "<|endoftext|>"
END_ID = 256
NUL = 0  # no source holds it: it stands for END_ID in the uint8 streams
EXCLUDED = {"site-packages", "dist-packages", "__pycache__"}
HELD_OUT_PERMILLE = 30
PROGRESS_SECONDS = 10
CHECKPOINT_SECONDS = 120
EVAL_CONTEXT = 2048
EVAL_BATCH = 16


@dataclass(frozen=True)
class Corpus:
    """Two streams of files, each file followed by NUL, with what went into them."""

    train: Tensor
    held_out: Tensor
    train_files: int
    held_out_files: int


def main() -> None:
    """Train, evaluate and save."""
    args = parse_arguments()
    torch.manual_seed(args.seed)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    corpus = read_corpus(args.sources, device)
    settings = model_settings(args)
    model = Mamba2LM(Mamba2Config.from_dict(settings)).to(device)
    initialise(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{parameters:,} parameters on {device}; {corpus.train.numel():,} bytes in "
        f"{corpus.train_files} files to train on, {corpus.held_out.numel():,} in "
        f"{corpus.held_out_files} held out",
        flush=True,
    )
    report = {
        "data": "Python standard library, .py sources",
        "sources": args.sources.name,
        "python": platform.python_version(),
        "split": f"held out: sha256(relative path) mod 1000 < {HELD_OUT_PERMILLE}",
        "train_files": corpus.train_files,
        "train_bytes": corpus.train.numel(),
        "held_out_files": corpus.held_out_files,
        "held_out_bytes": corpus.held_out.numel(),
        "parameters": parameters,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "arguments": {
            name: value for name, value in vars(args).items() if name not in ("out", "sources")
        },
        "finished": False,
    }
    report |= train(
        model, corpus.train, args, lambda so_far: save(model, settings, report | so_far, args.out)
    )
    round_to_stored(model)
    use_eager_mixers(model)  # other sizes and dtypes would be compiled anew
    started = time.monotonic()
    bits = bits_per_byte(model, corpus.held_out)
    print(f"held out: {bits:.4f} bits per byte ({time.monotonic() - started:.0f} s)", flush=True)
    report |= {
        "finished": True,
        "held_out_bits_per_byte": round(bits, 4),
        "held_out_context_bytes": EVAL_CONTEXT,
    }
    save(model, settings, report, args.out)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory to write the model to")
    parser.add_argument(
        "--sources",
        type=Path,
        default=Path(sysconfig.get_paths()["stdlib"]),
        help="a Python's standard library; default: of the Python that runs this",
    )
    parser.add_argument("--minutes", type=float, default=7.0, help="of training, evaluation after")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="default: cuda where there is one")
    parser.add_argument("--batch", type=int, default=64, help="windows a step")
    parser.add_argument("--context", type=int, default=1024, help="bytes a window")
    parser.add_argument("--width", type=int, default=192, help="hidden_size")
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--state", type=int, default=64, help="state_size")
    parser.add_argument("--lr", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--compile", action="store_true", help="compile the mixers, if that works")
    return parser.parse_args()


# ---- data


def read_corpus(root: Path, device: torch.device) -> Corpus:
    """Read every source under ``root`` in sorted order, split by a hash of its relative path."""
    streams: dict[bool, list[bytes]] = {True: [], False: []}
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        relative = path.relative_to(root)
        # _sysconfigdata describes the machine it was built on, not Python.
        if EXCLUDED & set(relative.parts) or relative.name.startswith("_sysconfigdata"):
            continue
        text = path.read_bytes()
        if text and NUL not in text:
            digest = hashlib.sha256(relative.as_posix().encode()).digest()
            held_out = int.from_bytes(digest[:8], "big") % 1000 < HELD_OUT_PERMILLE
            streams[held_out].append(text)
    train, held_out_stream = (
        torch.frombuffer(
            bytearray(b"".join(text + b"\0" for text in streams[key])), dtype=torch.uint8
        )
        for key in (False, True)
    )
    return Corpus(
        train.to(device), held_out_stream.to(device), len(streams[False]), len(streams[True])
    )


def to_ids(stream: Tensor) -> Tensor:
    """Return token ids of a uint8 stream."""
    ids = stream.long()
    return ids.masked_fill_(ids == NUL, END_ID)


def byte_tokenizer() -> Tokenizer:
    """Return the tokenizer whose ids are the bytes of the UTF-8 text, and END_ID."""
    # The ByteLevel alphabet gives every byte a printable character: printable ones themselves,
    # the others the code points from 256 on, in order.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    vocabulary = {chr(byte): byte for byte in printable}
    vocabulary |= {chr(256 + index): byte for index, byte in enumerate(others)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_TOKEN, special=True, normalized=False)])
    return tokenizer


# ---- model


def model_settings(args: argparse.Namespace) -> dict[str, object]:
    """Return the contents of config.json."""
    return {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        "dtype": "bfloat16",
        "vocab_size": END_ID + 1,
        "hidden_size": args.width,
        "num_hidden_layers": args.layers,
        "num_heads": 2 * args.width // 32,
        "head_dim": 32,
        "state_size": args.state,
        "n_groups": 1,
        "expand": 2,
        "conv_kernel": 4,
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "residual_in_fp32": True,
        "rescale_prenorm_residual": False,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "time_step_rank": math.ceil(args.width / 16),
        "time_step_min": 0.001,
        "time_step_max": 0.1,
        "time_step_floor": 1e-4,
        "time_step_limit": [0.0, {"__float__": "Infinity"}],
        "chunk_size": 64,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": END_ID,
        "eos_token_id": END_ID,
        "pad_token_id": END_ID,
    }


@torch.no_grad()
def initialise(model: Mamba2LM) -> None:
    """Draw the first weights: decays over 1 … 16, time steps log-uniform over 0.001 … 0.1."""
    model.backbone.embeddings.weight.normal_(std=0.02)
    for block in model.backbone.layers:
        mixer = block.mixer
        mixer.A_log.uniform_(1.0, 16.0).log_()
        mixer.D.fill_(1.0)
        dt = torch.empty_like(mixer.dt_bias).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        mixer.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        mixer.out_proj.weight.div_(math.sqrt(len(model.backbone.layers)))


def round_to_stored(model: Mamba2LM) -> None:
    """Round the weights to bf16, so that what is evaluated is what is stored."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())


# ---- training


def train(
    model: Mamba2LM,
    stream: Tensor,
    args: argparse.Namespace,
    checkpoint: Callable[[dict[str, object]], None],
) -> dict[str, object]:
    """Train for ``args.minutes``; return what the report says of it."""
    device = stream.device
    optimizer = torch.optim.AdamW(
        parameter_groups(model, args.weight_decay), lr=args.lr, betas=(0.9, 0.95), fused=True
    )
    offsets = torch.arange(args.context + 1, device=device)

    def loss_of_random_windows() -> Tensor:
        starts = torch.randint(stream.numel() - args.context, (args.batch, 1), device=device)
        ids = to_ids(stream[starts + offsets])
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(ids[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    def warm_up() -> None:
        loss_of_random_windows().backward()
        optimizer.zero_grad()

    if args.compile:
        compile_mixers(model, warm_up)
    warm_up()  # outside the budget: it loads and tunes the device's libraries
    budget = args.minutes * 60
    started = shown = saved = time.monotonic()
    steps = shown_steps = 0
    running = torch.zeros((), device=device)
    while (elapsed := time.monotonic() - started) < budget:
        for group in optimizer.param_groups:
            group["lr"] = args.lr * schedule(elapsed / budget)
        loss = loss_of_random_windows()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        running += loss.detach()
        steps += 1
        now = time.monotonic()
        if now - shown >= PROGRESS_SECONDS:
            done = steps - shown_steps
            bits = running.item() / done / math.log(2)
            if not math.isfinite(bits):
                raise SystemExit("training diverged: lower --lr; the last checkpoint stands")
            rate = done * args.batch * args.context / (time.monotonic() - shown)
            print(
                f"{elapsed:6.0f} s  step {steps:6d}  {bits:.4f} bits per byte  "
                f"{rate / 1e6:.3f} MB/s",
                flush=True,
            )
            running.zero_()
            shown, shown_steps = time.monotonic(), steps
            if now - saved >= CHECKPOINT_SECONDS:
                checkpoint(progress(steps, args, started))
                saved = now
    return progress(steps, args, started)


def progress(steps: int, args: argparse.Namespace, started: float) -> dict[str, object]:
    """Return how far training has come."""
    return {
        "steps": steps,
        "bytes_seen": steps * args.batch * args.context,
        "seconds": round(time.monotonic() - started, 1),
    }


def schedule(done: float) -> float:
    """Return the learning rate's share of its peak: 2 % warm-up, then a cosine to 0."""
    if done < 0.02:
        return max(done / 0.02, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - 0.02) / 0.98))


def parameter_groups(model: Mamba2LM, weight_decay: float) -> list[dict[str, object]]:
    """Return matrices with weight decay; norms, biases, decays and convolutions without."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def compile_mixers(model: Mamba2LM, warm_up: Callable[[], None]) -> None:
    """Compile the mixers, one piece of code for all of them; leave them be if that fails."""
    for block in model.backbone.layers:
        block.mixer.compile(dynamic=False)
    try:
        warm_up()
    except Exception as error:  # whatever the compiler lacks here, eager training works
        print(f"training without torch.compile: {type(error).__name__}: {error}"[:500], flush=True)
        use_eager_mixers(model)


def use_eager_mixers(model: Mamba2LM) -> None:
    """Undo `compile_mixers`."""
    for block in model.backbone.layers:
        block.mixer._compiled_call_impl = None


@torch.no_grad()
def bits_per_byte(model: Mamba2LM, stream: Tensor) -> float:
    """Return the held-out bits per byte, in fp32, over windows that each start afresh.

    Every byte is predicted once, and so is the end of every file.
    """
    ids = F.pad(to_ids(stream), (1, 0), value=END_ID)
    total = torch.zeros((), dtype=torch.float64, device=stream.device)
    windows = list(range(0, ids.numel() - 1, EVAL_CONTEXT))
    whole = [start for start in windows if start + EVAL_CONTEXT < ids.numel()]
    batches = [whole[i : i + EVAL_BATCH] for i in range(0, len(whole), EVAL_BATCH)]
    batches += [[start] for start in windows[len(whole) :]]
    for starts in batches:
        rows = torch.stack([ids[start : start + EVAL_CONTEXT + 1] for start in starts])
        logits = model(rows[:, :-1])
        total += F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")
    return float(total) / math.log(2) / stream.numel()


# ---- saving


def save(
    model: Mamba2LM, settings: dict[str, object], report: dict[str, object], out: Path
) -> None:
    """Write the model and its report to ``out``, each file replaced in one move."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
    }
    generation = {name: settings[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_TOKEN,
        "clean_up_tokenization_spaces": False,
    }
    writers = {
        "config.json": lambda path: write_json(path, settings),
        "generation_config.json": lambda path: write_json(path, generation),
        "tokenizer.json": lambda path: byte_tokenizer().save(str(path)),
        "tokenizer_config.json": lambda path: write_json(path, tokenizer_config),
        "model.safetensors": lambda path: save_file(tensors, path, metadata={"format": "pt"}),
        "training_report.json": lambda path: write_json(path, report),
    }
    for name, write in writers.items():
        partial = out / f".{name}.partial"
        write(partial)
        partial.chmod(0o644)
        os.replace(partial, out / name)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
