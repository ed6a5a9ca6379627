"""Early exit without verification: the draft's own tokens, lossy.

If the draft is not confident enough, deeper exits and then the whole model can choose the token instead.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.decoding.interface import DecodeRequest, Decoding
from edgeskip.runtime.engines.interface import DraftingEngine
from edgeskip.runtime.engines.prefill import PREFILL_CHUNK
from edgeskip.runtime.generation import FinishReason
from edgeskip.runtime.speculation.drafters import highest_probability

# Tokens that may wait for the whole model at once: it gives a row of logits for each, vocabulary-wide.
MOST_WAITING = 64
_NONE = np.zeros(0, np.int64)


class DraftOnlyDecoding(Decoding):
    """Tokens by exit `which` alone; with a `confidence`, by the first exit from there on whose likeliest token has at
    least that probability, else by the whole model, which then runs what it has not seen (CALM, arXiv 2207.07061,
    exits by softmax response too, but copies the state of skipped layers; here they are computed).
    """

    strategy = "draft-only"

    def __init__(self, engine: DraftingEngine, which: int = 0, confidence: float = 0.0) -> None:
        super().__init__(engine)
        self._drafting, self._which, self._confidence = engine, which, confidence
        self._row = np.full(engine.vocab_size, -np.inf, np.float32)
        self._by_draft = False

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        if self._confidence:  # the whole model will be asked sooner or later
            return super().prefill(tokens)
        for start in range(0, len(tokens), PREFILL_CHUNK):
            logits = self._drafting.draft(tokens[start : start + PREFILL_CHUNK], which=self._which)
        self._by_draft = True
        return self._whole_row(logits[0])

    def decode(self, request: DecodeRequest) -> Generator[int, None, FinishReason]:
        logits, history, sampler = request.logits, request.history, request.sampler
        engine, count = self._drafting, 0
        while True:
            token = sampler.pick(logits, history.tokens)
            if token in request.end_tokens:
                return "eos"
            history.append(token, drafted=self._by_draft)
            count += 1
            yield token
            if count == request.max_tokens or engine.length == engine.context_length:
                return "length"
            logits = self._next(history.last)

    def _next(self, last: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logits [vocab_size] after `last` [1] by the cheapest exit that is confident enough."""
        engine = self._drafting
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
        """Return the logits of a trimmed head at their places in the vocabulary, −∞ elsewhere."""
        ids = self._drafting.draft_tokens
        if ids is None:
            return logits
        self._row[ids] = logits
        return self._row
