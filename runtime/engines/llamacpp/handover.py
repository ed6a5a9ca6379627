"""Two GGUF files of one model, of which the second skips more FFNs: it takes over the KV cache while decoding.

llama.cpp's graphs are fixed, so an FFN cannot be left out of one that is loaded. Both files have attention in the same
places, so a cache that one filled is the other's too; llama.cpp's state API copies it. Each file has its own weights:
the second costs its size in memory from the first handover on, and a KV cache as large as the first's.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.base import EngineBase
from edgeskip.runtime.engines.llamacpp.context import LlamaContext
from edgeskip.runtime.engines.llamacpp.model import LlamaModel
from edgeskip.runtime.engines.threads import threads_or_default


class LlamaCppHandoverEngine(EngineBase):
    """A `HandoverEngine` over `first`, and over what `open_second` opens when it is first needed.

    EdgeSkipError, then, if the two do not belong together.
    """

    def __init__(self, first: LlamaModel, open_second: Callable[[], LlamaModel], *, threads: int | None = None) -> None:
        super().__init__(
            name="llama.cpp",
            provider=first.provider,
            threads=threads_or_default(threads),
            vocab_size=first.vocab_size,
            context_length=first.context_length,
        )
        self.first = first
        self._open_second = open_second
        self._second: LlamaModel | None = None
        self._contexts = [LlamaContext(first, self.threads)]
        self._current = 0
        self._reserved = 0
        self._logits = np.empty((1, first.vocab_size), np.float32)  # of one position
        self._handover_s = 0.0

    @property
    def length(self) -> int:
        return self._context.length

    @property
    def run_s(self) -> float:
        return sum(context.run_s for context in self._contexts)

    @property
    def handed_over(self) -> bool:
        return self._current > 0

    @property
    def handover_s(self) -> float:
        return self._handover_s

    def reserve(self, tokens: int) -> None:
        self._reserved = tokens
        for context in self._contexts:
            context.reserve(tokens)

    def step(self, tokens: NDArray[np.int64], *, logits: int = 1) -> NDArray[np.float32]:
        kept = self._check_step(tokens, logits)
        result = self._logits if kept == 1 else np.empty((kept, self.vocab_size), np.float32)
        self._context.append_tokens(tokens, result)
        return result

    def prepare(self) -> None:
        if len(self._contexts) < 2:
            second = self._second or self._open_second()
            if (second.vocab_size, second.hidden_size, second.num_blocks, second.context_length) != (
                self.first.vocab_size,
                self.first.hidden_size,
                self.first.num_blocks,
                self.first.context_length,
            ):
                second.close()
                raise EdgeSkipError(f"{second.path} cannot take over from {self.first.path}: export both again")
            self._second = second
            self._contexts.append(LlamaContext(second, self.threads))
            if self._reserved:  # making a KV cache takes longer than filling it
                self._contexts[1].reserve(self._reserved)

    def hand_over(self) -> None:
        if self._current:
            return
        self.prepare()
        begin = time.perf_counter()
        first, second = self._contexts
        first.copy_to(second)
        self._current = 1
        self._handover_s = time.perf_counter() - begin

    def truncate(self, length: int) -> None:
        self._context.truncate(length)
        if not length:
            for context in self._contexts:
                context.truncate(0)
            self._current = 0

    def close(self) -> None:
        for part in (*self._contexts, self._second, self.first):
            if part is not None:
                part.close()

    @property
    def _context(self) -> LlamaContext:
        return self._contexts[self._current]
