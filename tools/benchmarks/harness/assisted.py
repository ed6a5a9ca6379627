"""The two sides of `speculation_vs_transformers.py`: greedy generation of a fixed number of tokens, speculating or not.

Both give, for one prompt, the `tokens` written, `steps` of them in `decode_s` seconds, and tokens `drafted` and
`accepted`. End tokens are ignored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeskip.core.errors import EdgeSkipError

Generate = Callable[[list[int], int], dict[str, Any]]
"""From a prompt's ids and the number of tokens to write."""


def by_edgeskip(path: Path, exit_layer: int, gamma: int, threads: int) -> Generate:
    """An early-exit artifact; `gamma` 0 = plain decoding."""
    from edgeskip.runtime.session import load
    from edgeskip.runtime.speculation.policy import Speculation

    session = load(path, threads=threads)
    session.end_tokens = frozenset()
    policy = Speculation("model", max(gamma, 1), exit_layer=exit_layer)

    def generate(prompt: list[int], tokens: int) -> dict[str, Any]:
        strategy: Any = "speculative" if gamma else "plain"
        generation = session.generate(prompt, max_tokens=tokens, strategy=strategy, speculation=policy)
        counts = generation.stats.speculation
        return {
            "tokens": list(generation.tokens),
            "steps": len(generation.tokens) - 1,
            "decode_s": generation.stats.decode_s,
            "drafted": counts.drafted if counts else 0,
            "accepted": counts.accepted if counts else 0,
        }

    return generate


def by_transformers(path: Path, exit_layer: int, gamma: int, threads: int) -> Generate:
    """The checkpoint in float32 through `generate`; its early exit is the model's own norm and head."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    model.eval()
    config = model.generation_config
    config.eos_token_id, config.pad_token_id = None, 0
    config.num_assistant_tokens = max(gamma, 1)  # read from here alone
    config.num_assistant_tokens_schedule = "constant"
    config.assistant_confidence_threshold = 0.0
    early_exit = {"assistant_early_exit": exit_layer} if gamma else {}

    def generate(prompt: list[int], tokens: int) -> dict[str, Any]:
        watch = Deliveries()
        ids = torch.tensor([prompt])
        settings = {"max_new_tokens": tokens, "do_sample": False, "attention_mask": torch.ones_like(ids)}
        with torch.inference_mode():
            model.generate(ids, streamer=watch, **settings, **early_exit)
        return watch.result(len(prompt), tokens, gamma)

    return generate


class Deliveries:
    """A transformers streamer: which tokens came when. The first delivery is the prompt, each later one a round's."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.parts: list[list[int]] = []

    def put(self, value: Any) -> None:
        self.parts.append(np.asarray(value).reshape(-1).tolist())
        self.times.append(time.perf_counter())

    def end(self) -> None: ...

    def result(self, prompt: int, tokens: int, gamma: int) -> dict[str, Any]:
        """`steps` and `decode_s` are of what came after the first round, which holds the prompt's run."""
        parts = self.parts[1:]
        counts = [len(part) for part in parts]
        if len(self.parts[0]) != prompt or sum(counts) != tokens:
            raise EdgeSkipError(f"transformers gave {sum(counts)} tokens, not {tokens}")
        before = np.cumsum([0, *counts])[:-1]
        return {
            "tokens": [token for part in parts for token in part],
            "steps": tokens - counts[0],
            "decode_s": self.times[-1] - self.times[1],
            "drafted": int(sum(min(gamma, tokens - int(done) - 1) for done in before)),
            "accepted": sum(counts) - len(counts),
        }
