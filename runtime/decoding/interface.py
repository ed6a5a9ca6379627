"""What a text stream needs of a way to decode: run the prompt, then yield tokens. Plain decoding is the simplest."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.decoding.autoregressive import History, decode
from edgeskip.runtime.engines.interface import Engine
from edgeskip.runtime.engines.prefill import prefill
from edgeskip.runtime.generation import FinishReason, OnlineStats, SpeculationStats, Strategy
from edgeskip.runtime.sampling import TokenSampler


class Decoding(Protocol):
    """One generation's way of decoding over an engine it knows."""

    @property
    def strategy(self) -> Strategy: ...

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Runs the prompt int64 [n] on the empty engine; logits [vocab_size] for the first token."""

    def decode(
        self,
        logits: NDArray[np.float32],
        history: History,
        sampler: TokenSampler,
        *,
        max_tokens: int | None,
        end_tokens: frozenset[int],
    ) -> Generator[int, None, FinishReason]:
        """As `loops.decode`: yields tokens that are in `history` already, returns why it ended."""

    def speculation(self, decode_s: float, decode_tokens_per_s: float) -> SpeculationStats | None:
        """What speculation did so far; None where there is none."""

    def online(self) -> OnlineStats | None:
        """What online skipping did so far; None where there is none."""


class PlainDecoding:
    """Every token by the whole artifact, one a step."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def strategy(self) -> Strategy:
        return "plain"

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return prefill(self._engine, tokens)

    def decode(
        self,
        logits: NDArray[np.float32],
        history: History,
        sampler: TokenSampler,
        *,
        max_tokens: int | None,
        end_tokens: frozenset[int],
    ) -> Generator[int, None, FinishReason]:
        return decode(self._engine, logits, history, sampler, max_tokens=max_tokens, end_tokens=end_tokens)

    def speculation(self, decode_s: float, decode_tokens_per_s: float) -> SpeculationStats | None:
        return None

    def online(self) -> OnlineStats | None:
        return None
