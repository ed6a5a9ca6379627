"""Two engines of one vocabulary as one that drafts: a small model ahead, the whole model behind it.

Knows no runtime; both sides are `Engine`s with a KV cache each. The draft follows lazily: what the whole model ran by
itself it is given when it is next asked, so that plain use costs nothing, not even loading it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.base import DraftingEngineBase
from edgeskip.runtime.engines.interface import Engine
from edgeskip.runtime.engines.kv_cache import check_truncation

_SMALLEST = 1024  # tokens of history to begin with


class PairEngine(DraftingEngineBase):
    """A `DraftingEngine` of `whole`, drafted for by the engine that `open_draft` opens at the first `draft`.

    EdgeSkipError then if the two have different vocabularies or the draft's context is shorter.
    """

    def __init__(self, whole: Engine, open_draft: Callable[[], Engine]) -> None:
        super().__init__(
            name=whole.name,
            provider=whole.provider,
            threads=whole.threads,
            vocab_size=whole.vocab_size,
            context_length=whole.context_length,
        )
        self.whole = whole
        self._open_draft = open_draft
        self._draft: Engine | None = None
        self._reserved = 0
        self._history = np.zeros(_SMALLEST, np.int64)  # the tokens themselves: the draft may have to be given them
        self._length = 0

    @property
    def length(self) -> int:
        """Tokens of the sequence, those only drafted included."""
        return self._length

    @property
    def run_s(self) -> float:
        return self.whole.run_s + (self._draft.run_s if self._draft else 0.0)

    @property
    def drafted(self) -> int:
        return max(0, self._length - self.whole.length)

    def reserve(self, tokens: int) -> None:
        self._reserved = max(tokens, self._reserved)
        self.whole.reserve(tokens)
        if self._draft:
            self._draft.reserve(tokens)

    def step(self, tokens: NDArray[np.int64], *, logits: int = 1) -> NDArray[np.float32]:
        """Run the whole model, also over what was drafted and not verified."""
        kept = self._check_step(tokens, logits)
        return self._run_whole(tokens, kept)

    def draft(self, tokens: NDArray[np.int64], *, which: int = 0) -> NDArray[np.float32]:
        self._check_step(tokens, 1)
        if self._draft is None:
            self._draft = self._opened()
        self._forget_beyond(self._length)
        draft = self._draft
        logits = draft.step(np.concatenate([self._history[draft.length : self._length], tokens]))
        self._append(tokens)
        return logits

    def verify(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        count = self._check_verification(tokens)
        return self._run_whole(tokens, count)

    def truncate(self, length: int) -> None:
        check_truncation(length, self._length)
        self._length = length
        self._forget_beyond(length)

    def close(self) -> None:
        self.whole.close()
        if self._draft is not None:
            self._draft.close()

    def _run_whole(self, tokens: NDArray[np.int64], kept: int) -> NDArray[np.float32]:
        self._forget_beyond(self._length)
        pending = self._history[self.whole.length : self._length]
        logits = self.whole.step(np.concatenate([pending, tokens]) if len(pending) else tokens, logits=kept)
        self._append(tokens)
        return logits

    def _forget_beyond(self, length: int) -> None:
        """Drop what an engine holds and the sequence does not: rejected drafts, and what Ctrl-C kept from being
        counted."""
        for engine in (self.whole, self._draft):
            if engine is not None and engine.length > length:
                engine.truncate(length)

    def _append(self, tokens: NDArray[np.int64]) -> None:
        """Count `tokens` as part of the sequence, once an engine has run them."""
        end = self._length + len(tokens)
        if end > len(self._history):
            history = np.zeros(max(end, 2 * len(self._history)), np.int64)
            history[: self._length] = self._history[: self._length]
            self._history = history
        self._history[self._length : end] = tokens
        self._length = end

    def _opened(self) -> Engine:
        draft = self._open_draft()
        if draft.vocab_size != self.vocab_size or draft.context_length < self.context_length:
            draft.close()
            raise EdgeSkipError(
                f"the draft model ({draft.vocab_size} tokens, context {draft.context_length}) does not fit the model "
                f"it drafts for ({self.vocab_size} tokens, context {self.context_length}): export both again"
            )
        draft.reserve(self._reserved)
        return draft
