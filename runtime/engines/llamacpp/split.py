"""Run a model that was split at its exit layer into two GGUF files: shared-state self-speculation in llama.cpp.

The first file holds blocks 0 … E-1, one more block, and the head; the rest holds the blocks after them and the head.
The one more is a stub that keeps every row of the hidden state, or the draft's own, trained block. The first drafts;
the rest goes on from the exit states the draft left, so nothing is computed twice, and both together are the whole
model to the bit. Where a trimmed head lies beside the first file, the draft's logits are that one's.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.base import DraftingEngineBase
from edgeskip.runtime.engines.kv_cache import check_truncation
from edgeskip.runtime.engines.llamacpp.context import BATCH, LlamaContext
from edgeskip.runtime.engines.llamacpp.exit_states import ExitStateReader
from edgeskip.runtime.engines.llamacpp.model import LlamaModel
from edgeskip.runtime.engines.llamacpp.trimmed_head import TrimmedHead
from edgeskip.runtime.engines.threads import threads_or_default


class LlamaCppSplitEngine(DraftingEngineBase):
    """A `DraftingEngine` over both halves: `draft` runs the first, `verify` the rest over what was drafted.

    `head` drafts in place of the first file's own. `own_block`: the first file's last block is the draft's own, and
    every token goes through it, so that its cache is there when something is drafted. Raises EdgeSkipError if files do
    not belong together.
    """

    def __init__(
        self,
        first: Path | LlamaModel,
        rest: Path | LlamaModel,
        *,
        head: TrimmedHead | None = None,
        own_block: bool = False,
        provider: str = "cpu",
        threads: int | None = None,
    ) -> None:
        self.first = LlamaModel(first, provider) if isinstance(first, Path) else first
        self.rest = LlamaModel(rest, provider) if isinstance(rest, Path) else rest
        super().__init__(
            name="llama.cpp",
            provider=self.first.provider,
            threads=threads_or_default(threads),
            vocab_size=self.first.vocab_size,
            context_length=min(self.first.context_length, self.rest.context_length),
        )
        _check_halves(self.first, self.rest)
        if head is not None:
            head.check(self.first.hidden_size, self.vocab_size)
            self.draft_tokens = head.tokens
        self._head = head
        self._head_s = 0.0
        self._own_block = own_block
        self._trained = np.empty(self.first.hidden_size, np.float32)  # the state after that block
        self._reader = ExitStateReader(self.first.num_blocks - 1, self.first.hidden_size)
        self._first = LlamaContext(self.first, self.threads, callback=self._reader.callback)
        self._rest = LlamaContext(self.rest, self.threads)
        # Row i: the exit state of the i-th token that the rest has not seen.
        self._states = np.empty((BATCH, self.first.hidden_size), np.float32)
        self._logits = np.empty((1, self.vocab_size), np.float32)  # of one position

    @property
    def length(self) -> int:
        """Tokens in the KV cache of the first half, those only drafted included."""
        return self._first.length

    @property
    def drafted(self) -> int:
        """Tokens the rest has not seen yet."""
        return self._first.length - self._rest.length

    @property
    def run_s(self) -> float:
        return self._first.run_s + self._rest.run_s + self._head_s

    def reserve(self, tokens: int) -> None:
        self._first.reserve(tokens)
        self._rest.reserve(tokens)

    def step(self, tokens: NDArray[np.int64], *, logits: int = 1) -> NDArray[np.float32]:
        """Run the whole model, without the draft's head, also over what was drafted and not verified."""
        kept = self._check_step(tokens, logits)
        self._run_first(tokens, None)
        return self._run_rest(kept)

    def draft(self, tokens: NDArray[np.int64], *, which: int = 0) -> NDArray[np.float32]:
        self._check_step(tokens, 1)
        if self._head is None:
            self._run_first(tokens, self._logits)
            return self._logits
        if self._own_block:
            self._run_first(tokens, self._logits, self._trained)  # which are not computed
            state = self._trained
        else:
            self._run_first(tokens, None)
            state = self._states[self.drafted - 1]
        begin = time.perf_counter()
        logits = self._head.logits(state)
        self._head_s += time.perf_counter() - begin
        return logits

    def verify(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        count = self._check_verification(tokens)
        if len(tokens):
            self._run_first(tokens, None)
        return self._run_rest(count)

    def truncate(self, length: int) -> None:
        check_truncation(length, self.length)
        self._first.truncate(length)
        self._rest.truncate(min(length, self._rest.length))

    def close(self) -> None:
        for half in (self._first, self._rest, self.first, self.rest):
            half.close()
        if self._head is not None:
            self._head.close()

    def _run_rest(self, kept: int) -> NDArray[np.float32]:
        """Run the rest over everything it has not seen and return the whole model's logits of the last `kept`."""
        result = self._logits if kept == 1 else np.empty((kept, self.vocab_size), np.float32)
        self._rest.append_states(self._states[: self.drafted], result)
        return result

    def _run_first(
        self,
        tokens: NDArray[np.int64],
        logits: NDArray[np.float32] | None,
        trained: NDArray[np.float32] | None = None,
    ) -> None:
        """Append to the first half and keep the exit states; without `logits` its stub and head are not computed.

        A block of the draft's own runs in any case, for its cache; if no output is needed, on no rows after its
        attention. `trained` [hidden_size] gets the last token's state after it, and there the run ends.
        """
        before, drafted = self._first.length, self.drafted
        self._make_room(drafted + len(tokens))
        states = self._states[drafted : drafted + len(tokens)]
        try:
            while True:
                wanted = logits is not None
                self._reader.begin(states, outputs=wanted, go_on=wanted or self._own_block, then=trained)
                self._first.append_tokens(tokens, logits)
                if self._reader.finish():
                    return
                self._first.truncate(before)
        except BaseException:  # Ctrl-C included: a token without its exit state must not stay
            self._first.truncate(min(before, self._first.length))
            raise

    def _make_room(self, rows: int) -> None:
        if rows > len(self._states):
            states = np.empty((max(rows, 2 * len(self._states)), self._states.shape[1]), np.float32)
            states[: self.drafted] = self._states[: self.drafted]
            self._states = states


def _check_halves(first: LlamaModel, rest: LlamaModel) -> None:
    same = (first.hidden_size, first.vocab_size, first.provider) == (rest.hidden_size, rest.vocab_size, rest.provider)
    if not same or first.num_blocks < 2:
        raise EdgeSkipError(f"{first.path} and {rest.path} are not the two halves of one model: export the pair again")
