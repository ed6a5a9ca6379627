"""The checks before every step, and how a KV cache grows: the same rules and messages for all engines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError

SMALLEST_CAPACITY = 256  # tokens; a KV cache doubles from here


def check_step(tokens: NDArray[np.int64], logits: int, *, length: int, vocab_size: int, context_length: int) -> int:
    """Check a step that appends `tokens`; return how many positions' logits it must give.

    Args:
        tokens: Token ids int64 [n].
        logits: Of how many of the last positions logits are wanted; 0 = all n.
        length: Tokens held before the step.
        vocab_size: Every id must be below it.
        context_length: Most tokens of the sequence.

    Raises:
        EdgeSkipError: If an id is not the model's, or the context is full.
        ValueError: If there are fewer tokens than wanted logits.
    """
    count = len(tokens)
    kept = count if logits == 0 else logits
    if not 1 <= kept <= count:
        raise ValueError(f"{count} tokens have no last {logits} positions")
    # Compare one token as a number: numpy's reductions cost 40 µs with the cold caches after a step.
    lowest, highest = (tokens.min(), tokens.max()) if count > 1 else (tokens[0], tokens[0])
    if lowest < 0 or highest >= vocab_size:
        raise EdgeSkipError(f"token ids must be 0 … {vocab_size - 1}: this is another model's input")
    check_room(length, count, context_length)
    return kept


def check_room(length: int, count: int, context_length: int) -> None:
    """Raise EdgeSkipError if `count` more tokens do not fit the context."""
    if length + count > context_length:
        raise EdgeSkipError(f"the context is full: {length} + {count} tokens, the model holds {context_length}")


def check_truncation(length: int, held: int) -> None:
    """Raise ValueError if `held` tokens cannot be truncated to `length`."""
    if not 0 <= length <= held:
        raise ValueError(f"cannot truncate {held} tokens to {length}")


def grown_capacity(tokens: int, capacity: int, context_length: int) -> int:
    """Return the capacity for `tokens` tokens if `capacity` is too small: doubled, so that a long decode seldom grows.

    Raises:
        EdgeSkipError: If the context does not hold `tokens`.
    """
    if tokens > context_length:
        raise EdgeSkipError(f"{tokens} tokens do not fit the model's context of {context_length}")
    return min(context_length, max(tokens, 2 * capacity, SMALLEST_CAPACITY))
