"""Base classes of the engines: what is fixed once a model is open, and the checks before every step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.engines.interface import EngineName
from edgeskip.runtime.engines.kv_cache import check_step


class EngineBase(ABC):
    """The part of `Engine` that every implementation shares.

    Args:
        name: The inference runtime below.
        provider: The processor that really runs.
        threads: Threads it computes with.
        vocab_size: Columns of its logits.
        context_length: Most tokens of a sequence.
    """

    def __init__(self, *, name: EngineName, provider: str, threads: int, vocab_size: int, context_length: int) -> None:
        self.name: Final = name
        self.provider: Final = provider
        self.threads: Final = threads
        self.vocab_size: Final = vocab_size
        self.context_length: Final = context_length

    @property
    @abstractmethod
    def length(self) -> int:
        """Tokens in the KV cache."""

    def _check_step(self, tokens: NDArray[np.int64], logits: int) -> int:
        """Return how many positions' logits a step of `tokens` must give; see `check_step` for the errors."""
        return check_step(
            tokens, logits, length=self.length, vocab_size=self.vocab_size, context_length=self.context_length
        )


class DraftingEngineBase(EngineBase):
    """The part of `DraftingEngine` that every implementation shares. By default it has one draft, over all tokens."""

    drafts: int = 1
    draft_tokens: NDArray[np.int64] | None = None

    @property
    @abstractmethod
    def drafted(self) -> int:
        """Tokens at the end of the sequence that the draft has run and the whole model has not."""

    def _check_verification(self, tokens: NDArray[np.int64]) -> int:
        """Return how many positions a verification runs after appending `tokens`; ValueError if there are none."""
        if len(tokens):
            self._check_step(tokens, 1)
        count = self.drafted + len(tokens)
        if not count:
            raise ValueError("nothing to verify: neither tokens nor a draft")
        return count
