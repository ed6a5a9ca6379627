"""Who drafts: the artifact's own draft, or what the text itself said before. A drafter proposes, it decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.engines.interface import DraftingEngine
from edgeskip.runtime.sampling import TokenSampler
from edgeskip.runtime.speculation.acceptance_estimator import CONFIDENCE_BINS, confidence_bin
from edgeskip.runtime.speculation.draft_length import DraftLength

SHORTEST_NGRAM = 2


@dataclass
class Proposal:
    """Drafted tokens d1 … dk, in order.

    `distributions[i]` float64 [vocab_size] is q, which d(i+1) was drawn from; None = the token was certain (greedy, or
    an n-gram). `confidence_bins[i]` is the drafter's own class of how sure it was, an index into its reliability table.
    """

    tokens: list[int] = field(default_factory=list)
    distributions: list[NDArray[np.float64] | None] = field(default_factory=list)
    confidence_bins: list[int] = field(default_factory=list)

    def add(self, token: int, distribution: NDArray[np.float64] | None, bin_index: int) -> None:
        self.tokens.append(token)
        self.distributions.append(distribution)
        self.confidence_bins.append(bin_index)

    def __len__(self) -> int:
        return len(self.tokens)


class Drafter(Protocol):
    """Proposes tokens after a text whose last token has not run yet."""

    def propose(self, text: NDArray[np.int64], depth: DraftLength) -> Proposal:
        """`text` int64 [n], n ≥ 1: prompt and generated tokens. Each text of one drafter extends the one before."""


class ModelDrafter:
    """One exit (or the skip plan) of the artifact; leaves what it ran in the engine, to be verified or truncated."""

    def __init__(self, engine: DraftingEngine, sampler: TokenSampler, which: int = 0) -> None:
        self._engine, self._sampler, self._which = engine, sampler, which
        self._ids = engine.draft_tokens
        # Sampling and penalties look tokens up by their id, so a trimmed head's logits go into a whole row.
        self._row = np.full(engine.vocab_size, -np.inf, np.float32)
        # Where only the likeliest token counts, the columns can stay as they are.
        self._plain = sampler.policy.greedy and sampler.policy.repetition_penalty == 1

    def propose(self, text: NDArray[np.int64], depth: DraftLength) -> Proposal:
        proposal = Proposal()
        feed = text[-1:]
        while depth.wants_more():
            logits = self._engine.draft(feed, which=self._which)[0]
            confidence = highest_probability(logits) if depth.needs_confidence else 1.0
            bin_index = confidence_bin(confidence)
            if not depth.keep(confidence, bin_index):
                break
            token, distribution = self._pick(logits, text, proposal)
            proposal.add(token, distribution, bin_index)
            feed = np.array([token], np.int64)
        return proposal

    def _pick(
        self, logits: NDArray[np.float32], text: NDArray[np.int64], proposal: Proposal
    ) -> tuple[int, NDArray[np.float64] | None]:
        if self._plain:
            column = int(logits.argmax())
            return (column if self._ids is None else int(self._ids[column])), None
        if self._ids is not None:
            self._row[self._ids] = logits
            logits = self._row
        history = np.concatenate([text, np.asarray(proposal.tokens, np.int64)])
        if self._sampler.policy.greedy:
            return self._sampler.pick(logits, history), None
        distribution = self._sampler.distribution(logits, history)
        return self._sampler.draw(distribution), distribution


class NgramDrafter:
    """Prompt lookup: where the last tokens stood before, what followed them then is proposed again.

    The longest suffix of 2 … `longest` tokens counts, and its latest occurrence. (Idea: Saxena, "Prompt Lookup
    Decoding", 2023.)
    """

    def __init__(self, longest: int) -> None:
        self._lengths = range(longest, SHORTEST_NGRAM - 1, -1)
        # n-gram → index after it. An n-gram is entered when a token follows it, so the text's own end is never found.
        self._after: dict[tuple[int, ...], int] = {}
        self._tokens: list[int] = []

    def propose(self, text: NDArray[np.int64], depth: DraftLength) -> Proposal:
        self._read(text)
        proposal = Proposal()
        start, length = self._find()
        if start is None:
            return proposal
        bin_index = min(CONFIDENCE_BINS - 1, length)
        while depth.wants_more() and depth.keep(1.0, bin_index):
            at = start + len(proposal)
            # Beyond the end of the text the copy goes on with itself: a loop is continued as a loop.
            known = len(self._tokens)
            token = self._tokens[at] if at < known else proposal.tokens[at - known]
            proposal.add(token, None, bin_index)
        return proposal

    def _read(self, text: NDArray[np.int64]) -> None:
        for token in text[len(self._tokens) :].tolist():
            end = len(self._tokens)
            for length in self._lengths:
                if length <= end:
                    self._after[tuple(self._tokens[end - length :])] = end
            self._tokens.append(token)

    def _find(self) -> tuple[int | None, int]:
        for length in self._lengths:
            found = self._after.get(tuple(self._tokens[-length:]))
            if found is not None:
                return found, length
        return None, 0


def highest_probability(logits: NDArray[np.float32]) -> float:
    """max softmax(logits) of one row, not tempered."""
    return float(1.0 / np.exp(logits - logits.max()).sum(dtype=np.float64))
