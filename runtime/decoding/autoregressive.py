"""Autoregressive decoding: one token a step, over any engine."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.engines.interface import Engine
from edgeskip.runtime.generation import FinishReason
from edgeskip.runtime.sampling import TokenSampler


class History:
    """The tokens so far, prompt first, in one buffer that grows by doubling."""

    def __init__(self, prompt: NDArray[np.int64]) -> None:
        self._buffer = np.empty(max(256, 2 * len(prompt)), np.int64)
        self._buffer[: len(prompt)] = prompt
        self._length = self._prompt_length = len(prompt)
        self.drafted: list[bool] = []
        """Of each generated token: whether a draft proposed it (and it was accepted)."""

    def append(self, token: int, *, drafted: bool = False) -> None:
        self.drafted.append(drafted)
        if self._length == len(self._buffer):
            self._buffer = np.concatenate([self._buffer, np.empty_like(self._buffer)])
        self._buffer[self._length] = token
        self._length += 1

    def __len__(self) -> int:
        return self._length

    @property
    def tokens(self) -> NDArray[np.int64]:
        """All tokens [n], a view."""
        return self._buffer[: self._length]

    @property
    def last(self) -> NDArray[np.int64]:
        """The last token [1], a view."""
        return self._buffer[self._length - 1 : self._length]

    @property
    def generated(self) -> NDArray[np.int64]:
        """The tokens after the prompt, a view."""
        return self._buffer[self._prompt_length : self._length]


def decode(
    engine: Engine,
    logits: NDArray[np.float32],
    history: History,
    sampler: TokenSampler,
    *,
    max_tokens: int | None,
    end_tokens: frozenset[int],
) -> Generator[int, None, FinishReason]:
    """Yields tokens, each already in `history`; returns why it ended. The end token itself is not yielded.

    `logits` [vocab_size] follow `history`. Ends by `max_tokens`, by an end token, or when the context is full.
    """
    count = 0
    while True:
        token = sampler.pick(logits, history.tokens)
        if token in end_tokens:
            return "eos"
        history.append(token)
        count += 1
        yield token
        if count == max_tokens or engine.length == engine.context_length:
            return "length"
        logits = engine.step(history.last)[0]
