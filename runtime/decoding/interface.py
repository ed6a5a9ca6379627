"""What every way of decoding shares: the tokens so far, the request, and the interface that a text stream drives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.engines.interface import Engine
from edgeskip.runtime.engines.prefill import prefill
from edgeskip.runtime.generation import FinishReason, OnlineStats, SpeculationStats, Strategy
from edgeskip.runtime.sampling import TokenSampler


class History:
    """The tokens so far, prompt first, in one buffer that grows by doubling.

    Args:
        prompt: Token ids int64 [n]; copied.
    """

    def __init__(self, prompt: NDArray[np.int64]) -> None:
        self._buffer = np.empty(max(256, 2 * len(prompt)), np.int64)
        self._buffer[: len(prompt)] = prompt
        self._length = self._prompt_length = len(prompt)
        self.drafted: list[bool] = []
        """For each generated token: whether a draft proposed it (and it was accepted)."""

    def append(self, token: int, *, drafted: bool = False) -> None:
        """Add one generated token."""
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


@dataclass(frozen=True)
class DecodeRequest:
    """What one generation decodes from, once its prompt has run.

    Attributes:
        logits: float32 [vocab_size] for the first token, which follows `history`.
        history: The prompt; every decoded token is appended to it.
        sampler: Chooses the tokens.
        max_tokens: Most tokens to decode; None = until an end token or a full context.
        end_tokens: Ids that end the text.
    """

    logits: NDArray[np.float32]
    history: History
    sampler: TokenSampler
    max_tokens: int | None = None
    end_tokens: frozenset[int] = frozenset()


class Decoding(ABC):
    """One way to decode one generation over an engine."""

    strategy: ClassVar[Strategy]

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Run the prompt int64 [n] on the empty engine; return the logits [vocab_size] for the first token."""
        return prefill(self._engine, tokens)

    @abstractmethod
    def decode(self, request: DecodeRequest) -> Generator[int, None, FinishReason]:
        """Yield tokens, each already in the request's history, and return why decoding ended.

        An end token is neither yielded nor kept. Decoding also ends after `max_tokens`, or when the context is full.
        """

    def speculation(self, decode_s: float, decode_tokens_per_s: float) -> SpeculationStats | None:
        """Return what speculation did so far; None if there is none."""
        return None

    def online(self) -> OnlineStats | None:
        """Return what online skipping did so far; None if there is none."""
        return None
