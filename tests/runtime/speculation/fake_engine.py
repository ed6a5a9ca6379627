"""A drafting engine whose logits are a pure function of the tokens it holds: any slip in position or roll-back shows.

It notes what it is asked, and its clock is not the machine's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.engines.interface import EngineName


class FakeClock:
    """Time that passes only where the fake engine works."""

    def __init__(self, plain_s: float = 0.010, row_s: float = 0.002, draft_s: float = 0.002) -> None:
        self.plain_s, self.row_s, self.draft_s = plain_s, row_s, draft_s
        self.now = 0.0

    def row(self, rows: int) -> float:
        """Seconds of a forward pass over `rows` tokens."""
        return self.plain_s + (rows - 1) * self.row_s

    def pass_(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now


class FakeEngine:
    """The whole model's logits after a prefix are drawn from a generator seeded with it; so are the draft's, but for
    a share `agreement` of the prefixes, where they are the model's own."""

    def __init__(
        self,
        *,
        seed: int = 0,
        vocab_size: int = 12,
        context_length: int = 64,
        agreement: float = 0.5,
        drafts: int = 1,
        draft_tokens: NDArray[np.int64] | None = None,
        sharpness: float = 3.0,
        clock: FakeClock | None = None,
    ) -> None:
        self.seed, self.vocab_size, self.context_length = seed, vocab_size, context_length
        self.agreement, self.drafts, self.draft_tokens, self.sharpness = agreement, drafts, draft_tokens, sharpness
        self.clock = clock or FakeClock()
        self.held: list[int] = []
        self.drafted = 0
        self.calls: list[tuple[str, int]] = []
        self.name: EngineName = "onnxruntime"
        self.provider, self.threads, self.run_s = "cpu", 1, 0.0

    @property
    def length(self) -> int:
        return len(self.held)

    def reserve(self, tokens: int) -> None:
        assert tokens <= self.context_length

    def step(self, tokens: NDArray[np.int64], *, logits: int = 1) -> NDArray[np.float32]:
        self.calls.append(("step", len(tokens)))
        self.clock.pass_(self.clock.row(len(tokens)))
        self._append(tokens)
        self.drafted = 0
        return self._rows(logits or len(tokens))

    def draft(self, tokens: NDArray[np.int64], *, which: int = 0) -> NDArray[np.float32]:
        assert len(tokens) or self.drafted
        assert 0 <= which < self.drafts
        self.calls.append(("draft", len(tokens)))
        self.clock.pass_(self.clock.draft_s * (1 + which))
        self._append(tokens)
        self.drafted += len(tokens)
        logits = self.draft_logits(self.held, which)
        return logits[None] if self.draft_tokens is None else logits[None, self.draft_tokens]

    def verify(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        self.calls.append(("verify", len(tokens)))
        rows = self.drafted + len(tokens)
        assert rows, "nothing to verify"
        self.clock.pass_(self.clock.row(rows))
        self._append(tokens)
        self.drafted = 0
        return self._rows(rows)

    def truncate(self, length: int) -> None:
        assert 0 <= length <= self.length
        self.drafted = max(0, self.drafted - (self.length - length))
        del self.held[length:]

    def close(self) -> None:
        self.held.clear()

    def logits(self, prefix: list[int]) -> NDArray[np.float32]:
        """The whole model's, after `prefix`."""
        return self._draw([self.seed, *prefix])

    def draft_logits(self, prefix: list[int], which: int = 0) -> NDArray[np.float32]:
        agrees = np.random.default_rng([1, self.seed, which, *prefix]).random() < self.agreement
        return self.logits(prefix) if agrees else self._draw([2, which, self.seed, *prefix])

    def _draw(self, seed: list[int]) -> NDArray[np.float32]:
        rng = np.random.default_rng(seed)
        return (rng.standard_normal(self.vocab_size) * self.sharpness).astype(np.float32)

    def _append(self, tokens: NDArray[np.int64]) -> None:
        assert tokens.dtype == np.int64
        assert self.length + len(tokens) <= self.context_length, "beyond the context"
        self.held += tokens.tolist()

    def _rows(self, count: int) -> NDArray[np.float32]:
        return np.stack([self.logits(self.held[: self.length - i]) for i in reversed(range(count))])
