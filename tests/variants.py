"""Variants of the supported families as tiny checkpoints, each with its transformers model: what every lowering is
tested on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_models import rope_config, tiny_checkpoint

from edgeskip.core.plan import Plan, Skip
from edgeskip.core.sublayers import parse_sublayer
from edgeskip.models.source import ModelSource, open_model
from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.runtime.engines.interface import Engine

Logits = np.ndarray[Any, np.dtype[np.float32]]
TOKENS = np.array([(7 * i * i + 3 * i) % 300 + 2 for i in range(48)], dtype=np.int64)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, tied": ("llama", {}),
    "llama, untied": ("llama", {"tie_word_embeddings": False}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, one head per key": ("llama", {"num_key_value_heads": 4}),
    "llama, linear": ("llama", rope_config(scaling={"rope_type": "linear", "factor": 4.0})),
    "llama, llama3": ("llama", rope_config(theta=5e5, scaling=LLAMA3)),
    "llama, yarn": ("llama", rope_config(scaling=YARN)),
    "mistral": ("mistral", {"head_dim": 32}),
    "mistral, window": ("mistral", {"sliding_window": 8}),
    "qwen2": ("qwen2", {}),
    "qwen2, window above": ("qwen2", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2}),
    "qwen3": ("qwen3", {}),
    "qwen3, biases and untied": ("qwen3", {"attention_bias": True, "tie_word_embeddings": False}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}),
}
# Three of each: mixed kinds, the first and the last sublayer, two in a row.
SKIPPED = [["attn.0", "ffn.1", "ffn.3"], ["attn.1", "ffn.1", "attn.3"]]


@dataclass(frozen=True)
class Case:
    source: ModelSource
    oracle: Any

    @property
    def config(self) -> Any:
        return self.source.decoder.config

    def plan(self, names: list[str], compensation: str = "affine") -> Plan:
        size = self.config.hidden_size
        return random_plan(names, compensation, num_blocks=self.config.num_blocks, hidden_size=size)

    def expected(self, plan: Plan, tokens: Any = TOKENS) -> Any:
        with skipped(self.oracle, plan):
            return torch_logits(self.oracle, tokens)


def case_of(folder: Path, family: str, **overrides: Any) -> Case:
    from transformers import AutoModelForCausalLM

    tiny_checkpoint(family, folder, **overrides)
    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return Case(open_model(str(folder)), oracle)


def in_one_prefill(engine: Engine, tokens: Any = TOKENS) -> Logits:
    engine.truncate(0)
    return engine.step(tokens, logits=0).copy()


def in_steps(engine: Engine, tokens: Any = TOKENS) -> Logits:
    """A prefill, several tokens at once on a filled cache, and single tokens."""
    engine.truncate(0)
    first, second = len(tokens) - 14, len(tokens) - 9
    rows = [engine.step(tokens[:first], logits=0).copy(), engine.step(tokens[first:second], logits=0).copy()]
    rows += [engine.step(tokens[i : i + 1]).copy() for i in range(second, len(tokens))]
    return np.concatenate(rows)


def torch_logits(model: Any, tokens: Any = TOKENS) -> Logits:
    with torch.inference_mode():
        logits: Logits = model(torch.from_numpy(tokens)[None]).logits[0].float().numpy()
    return logits


def random_plan(names: list[str], compensation: str, *, num_blocks: int, hidden_size: int) -> Plan:
    """Skips with scales 0.8 … 1.3 and biases of σ 0.2."""
    rng = np.random.default_rng(7)
    skips = []
    for name in names:
        scale = 1.0 if compensation == "none" else float(rng.uniform(0.8, 1.3))
        bias = rng.normal(scale=0.2, size=hidden_size).astype(np.float32) if compensation == "affine" else None
        skips.append(Skip(parse_sublayer(name, num_blocks), scale, bias))
    return Plan(num_blocks, tuple(skips))
