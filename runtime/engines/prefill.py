"""Run a prompt on any engine, in chunks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.interface import Engine

# Activations and attention scores grow with the tokens that run at once: 4096 tokens of SmolLM2 together take 200 MB
# more than in chunks of 512, and just as long.
PREFILL_CHUNK = 512  # tokens


def check_prompt(engine: Engine, tokens: NDArray[np.int64]) -> None:
    """Raise EdgeSkipError if `tokens` is empty or longer than the context, before anything runs."""
    if not len(tokens):
        raise EdgeSkipError("the prompt is empty: give at least one token")
    if len(tokens) > engine.context_length:
        raise EdgeSkipError(
            f"the prompt has {len(tokens)} tokens, but the model's context holds {engine.context_length}: shorten it"
        )


def prefill(engine: Engine, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Append `tokens` int64 [n] to what the engine holds; return the logits float32 [vocab_size] of the last one."""
    for start in range(0, len(tokens), PREFILL_CHUNK):
        logits = engine.step(tokens[start : start + PREFILL_CHUNK])
    last: NDArray[np.float32] = logits[-1]
    return last


def all_logits(engine: Engine, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Append `tokens` int64 [n] to what the engine holds; return the logits float32 [n, vocab_size] of all of them."""
    engine.reserve(engine.length + len(tokens))
    result = np.empty((len(tokens), engine.vocab_size), np.float32)
    for start in range(0, len(tokens), PREFILL_CHUNK):
        end = min(start + PREFILL_CHUNK, len(tokens))
        result[start:end] = engine.step(tokens[start:end], logits=0)
    return result
