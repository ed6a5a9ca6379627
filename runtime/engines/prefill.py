"""Run a prompt on any engine, in chunks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.interface import Engine

# Activations and attention scores grow with what runs at once: 4096 tokens of SmolLM2 in one go take 200 MB more than
# in chunks of 512, and no less time.
PREFILL_CHUNK = 512  # tokens


def check_prompt(engine: Engine, tokens: NDArray[np.int64]) -> None:
    """EdgeSkipError where `tokens` is empty or longer than the context, before anything runs."""
    if not len(tokens):
        raise EdgeSkipError("the prompt is empty: give at least one token")
    if len(tokens) > engine.context_length:
        raise EdgeSkipError(
            f"the prompt has {len(tokens)} tokens and the model's context holds {engine.context_length}: shorten it"
        )


def prefill(engine: Engine, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Runs `tokens` after what the engine holds; logits [vocab_size] of the last one."""
    for start in range(0, len(tokens), PREFILL_CHUNK):
        logits = engine.step(tokens[start : start + PREFILL_CHUNK])
    last: NDArray[np.float32] = logits[-1]
    return last
