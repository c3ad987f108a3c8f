# SPDX-License-Identifier: Apache-2.0
"""The decode loop, spelled out: admit, launch, accept, release, for a batch of two texts.

    python examples/speculative_loop.py

`graphrt.models.decode.GreedyDecoder` is this loop with a limit and end tokens for each request.
"""

import torch

from graphrt import DecodeRuntime, RuntimeConfig
from graphrt.models.bundled import bundled_model
from graphrt.models.drafts import PromptLookup, padded
from graphrt.models.greedy import GreedyStep
from graphrt.models.mamba2 import Mamba2LM
from graphrt.models.text import read_tokenizer

PROMPTS = (
    "class Stack:\n    def push(self, item):\n        self.items.append(item)\n\n"
    "    def pop(self):\n        return ",
    "try:\n    import json\nexcept ImportError:\n    json = None\n\ntry:\n    import ",
)
T = 6  # tokens a launch: 1 confirmed, 5 drafts
NEW_TOKENS = 60

model = Mamba2LM.from_pretrained(bundled_model(), dtype=torch.float32)
tokenizer = read_tokenizer(bundled_model())
config = RuntimeConfig(
    shape=model.config.chain_shape,
    layers=model.config.num_hidden_layers,
    slots=2,
    tokens=T,
    window=16,
    buckets=(1, 2),
    activation_dtype=model.dtype,
)

with DecodeRuntime(config) as runtime:
    runtime.capture(GreedyStep(model))

    new: dict[int, list[int]] = {}  # by slot: what was decoded, the last token not yet run
    lookups: dict[int, PromptLookup] = {}
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt).ids
        logits, prefilled = model.prefill(ids)
        slot = runtime.admit(prefilled)
        new[slot] = [int(logits.argmax())]
        lookups[slot] = PromptLookup([*ids, *new[slot]])

    launches = 0
    while new:
        slots = list(new)
        drafts = [padded(lookups[slot].propose(T - 1), T - 1, filler=0) for slot in slots]
        rows = [[new[slot][-1], *draft] for slot, draft in zip(slots, drafts, strict=True)]
        out = runtime.launch(slots, input_ids=rows)
        launches += 1

        counts = {}
        for slot, draft, chosen in zip(slots, drafts, out.next_ids.tolist(), strict=False):
            kept = 1  # the confirmed token, then each draft that the model chooses too
            while kept < T and draft[kept - 1] == chosen[kept - 1]:
                kept += 1
            counts[slot] = kept
            new[slot] += chosen[:kept]
            lookups[slot].extend(chosen[:kept])
        # GreedyStep has accepted the same counts in its graph already; other steps need this line.
        runtime.accept(counts)

        for slot in slots:
            if len(new[slot]) >= NEW_TOKENS:
                runtime.release(slot)
                print(f"slot {slot}:", repr(tokenizer.decode(new.pop(slot)[:NEW_TOKENS])))

print(f"{len(PROMPTS) * NEW_TOKENS} tokens in {launches} launches on {config.device}")
