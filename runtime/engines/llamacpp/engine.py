"""Run a GGUF file with llama.cpp: one sequence, its KV cache and its logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.engines.base import EngineBase
from edgeskip.runtime.engines.llamacpp.context import LlamaContext
from edgeskip.runtime.engines.llamacpp.model import LlamaModel
from edgeskip.runtime.engines.threads import threads_or_default


class LlamaCppEngine(EngineBase):
    """An `Engine` over one GGUF file, or over a model that is open already (whose provider then counts).

    Raises EdgeSkipError if llama-cpp-python is missing, too old or built without `provider`, or cannot load the file.
    `threads` defaults to the physical cores.
    """

    def __init__(self, file: Path | LlamaModel, *, provider: str = "cpu", threads: int | None = None) -> None:
        model = LlamaModel(file, provider) if isinstance(file, Path) else file
        super().__init__(
            name="llama.cpp",
            provider=model.provider,
            threads=threads_or_default(threads),
            vocab_size=model.vocab_size,
            context_length=model.context_length,
        )
        self.model = model
        self._context = LlamaContext(model, self.threads)
        self._logits = np.empty((1, self.vocab_size), np.float32)  # of one position

    @property
    def length(self) -> int:
        return self._context.length

    @property
    def run_s(self) -> float:
        return self._context.run_s

    def reserve(self, tokens: int) -> None:
        self._context.reserve(tokens)

    def step(self, tokens: NDArray[np.int64], *, logits: int = 1) -> NDArray[np.float32]:
        kept = self._check_step(tokens, logits)
        result = self._logits if kept == 1 else np.empty((kept, self.vocab_size), np.float32)
        self._context.append_tokens(tokens, result)
        return result

    def truncate(self, length: int) -> None:
        self._context.truncate(length)

    def close(self) -> None:
        self._context.close()
        self.model.close()
