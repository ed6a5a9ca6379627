"""Early exit without verification: the draft's own tokens, lossy. Where it is not sure, deeper exits and then the whole
model may be asked instead.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.decoding.autoregressive import History
from edgeskip.runtime.engines.interface import DraftingEngine
from edgeskip.runtime.engines.prefill import PREFILL_CHUNK, prefill
from edgeskip.runtime.generation import FinishReason, OnlineStats, SpeculationStats, Strategy
from edgeskip.runtime.sampling import TokenSampler
from edgeskip.runtime.speculation.drafters import highest_probability

# Tokens that may wait for the whole model at once: it gives a row of logits for each, vocabulary-wide.
MOST_WAITING = 64
_NONE = np.zeros(0, np.int64)


class DraftOnlyDecoding:
    """Tokens by exit `which` alone; with a `confidence`, by the first exit from there on whose likeliest token has at
    least that probability, else by the whole model, which then runs what it has not seen (CALM, arXiv 2207.07061,
    exits by softmax response too, but copies the state of skipped layers; here they are computed).
    """

    def __init__(self, engine: DraftingEngine, which: int = 0, confidence: float = 0.0) -> None:
        self._engine, self._which, self._confidence = engine, which, confidence
        self._row = np.full(engine.vocab_size, -np.inf, np.float32)
        self._by_draft = False

    @property
    def strategy(self) -> Strategy:
        return "draft-only"

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        if self._confidence:  # the whole model will be asked sooner or later
            return prefill(self._engine, tokens)
        for start in range(0, len(tokens), PREFILL_CHUNK):
            logits = self._engine.draft(tokens[start : start + PREFILL_CHUNK], which=self._which)
        self._by_draft = True
        return self._whole_row(logits[0])

    def decode(
        self,
        logits: NDArray[np.float32],
        history: History,
        sampler: TokenSampler,
        *,
        max_tokens: int | None,
        end_tokens: frozenset[int],
    ) -> Generator[int, None, FinishReason]:
        engine, count = self._engine, 0
        while True:
            token = sampler.pick(logits, history.tokens)
            if token in end_tokens:
                return "eos"
            history.append(token, drafted=self._by_draft)
            count += 1
            yield token
            if count == max_tokens or engine.length == engine.context_length:
                return "length"
            logits = self._next(history.last)

    def speculation(self, decode_s: float, decode_tokens_per_s: float) -> SpeculationStats | None:
        return None

    def online(self) -> OnlineStats | None:
        return None

    def _next(self, last: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits [vocab_size] after `last` [1] by the cheapest that is sure enough."""
        engine = self._engine
        self._by_draft = True
        if not self._confidence:
            return self._whole_row(engine.draft(last, which=self._which)[0])
        if engine.drafted < MOST_WAITING:
            tokens = last
            for which in range(self._which, engine.drafts):
                logits = engine.draft(tokens, which=which)[0]
                if highest_probability(logits) >= self._confidence:
                    return self._whole_row(logits)
                tokens = _NONE
            last = _NONE
        self._by_draft = False
        row: NDArray[np.float32] = engine.verify(last)[-1]
        return row

    def _whole_row(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of a trimmed head in their places of the vocabulary, −∞ elsewhere."""
        ids = self._engine.draft_tokens
        if ids is None:
            return logits
        self._row[ids] = logits
        return self._row
