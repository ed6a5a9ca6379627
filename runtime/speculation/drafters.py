"""Drafters: the artifact's own draft, or n-grams of the text so far. They propose tokens and decide nothing."""

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

    Attributes:
        tokens: Their ids.
        distributions: For each token, the distribution q float64 [vocab_size] that it was drawn from; None = it was
            certain (greedy, or an n-gram).
        confidence_bins: For each token, the bin of the drafter's confidence in its acceptance estimator.
    """

    tokens: list[int] = field(default_factory=list)
    distributions: list[NDArray[np.float64] | None] = field(default_factory=list)
    confidence_bins: list[int] = field(default_factory=list)

    def add(self, token: int, distribution: NDArray[np.float64] | None, bin_index: int) -> None:
        """Add one token."""
        self.tokens.append(token)
        self.distributions.append(distribution)
        self.confidence_bins.append(bin_index)

    def __len__(self) -> int:
        return len(self.tokens)


class Drafter(Protocol):
    """Proposes tokens after a text whose last token has not run yet."""

    def propose(self, text: NDArray[np.int64], length: DraftLength) -> Proposal:
        """Return a proposal for the tokens after `text`.

        Args:
            text: Prompt and generated tokens int64 [n], n ≥ 1. Each text that one drafter gets extends the one before.
            length: Decides how many tokens to draft.
        """


class ModelDrafter:
    """One exit (or the skip plan) of the artifact; what it ran stays in the engine, to be verified or truncated.

    Args:
        engine: Drafts.
        sampler: Chooses the tokens, from the same policy as the verification.
        which: Index of the exit.
    """

    def __init__(self, engine: DraftingEngine, sampler: TokenSampler, which: int = 0) -> None:
        self._engine, self._sampler, self._which = engine, sampler, which
        self._ids = engine.draft_tokens
        # Sampling and penalties look tokens up by their id, so a trimmed head's logits go into a whole row.
        self._row = np.full(engine.vocab_size, -np.inf, np.float32)
        # If only the likeliest token counts, the columns can stay as they are.
        self._plain = sampler.policy.greedy and sampler.policy.repetition_penalty == 1

    def propose(self, text: NDArray[np.int64], length: DraftLength) -> Proposal:
        proposal = Proposal()
        feed = text[-1:]
        while length.wants_more():
            logits = self._engine.draft(feed, which=self._which)[0]
            confidence = highest_probability(logits) if length.needs_confidence else 1.0
            bin_index = confidence_bin(confidence)
            if not length.keep(confidence, bin_index):
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
    """Prompt lookup: propose what followed the last tokens when they occurred before.

    It takes the longest suffix of 2 … `longest` tokens that occurred, at its latest occurrence. (Idea: Saxena, "Prompt
    Lookup Decoding", 2023.)
    """

    def __init__(self, longest: int) -> None:
        self._lengths = range(longest, SHORTEST_NGRAM - 1, -1)
        # n-gram → index after it. An n-gram is added when a token follows it, so the end of the text is never found.
        self._after: dict[tuple[int, ...], int] = {}
        self._tokens: list[int] = []

    def propose(self, text: NDArray[np.int64], length: DraftLength) -> Proposal:
        self._index_new_tokens(text)
        proposal = Proposal()
        start, matched = self._latest_match()
        if start is None:
            return proposal
        bin_index = min(CONFIDENCE_BINS - 1, matched)
        while length.wants_more() and length.keep(1.0, bin_index):
            at = start + len(proposal)
            # Beyond the end of the text the copy continues with itself, so a loop stays a loop.
            known = len(self._tokens)
            token = self._tokens[at] if at < known else proposal.tokens[at - known]
            proposal.add(token, None, bin_index)
        return proposal

    def _index_new_tokens(self, text: NDArray[np.int64]) -> None:
        for token in text[len(self._tokens) :].tolist():
            end = len(self._tokens)
            for length in self._lengths:
                if length <= end:
                    self._after[tuple(self._tokens[end - length :])] = end
            self._tokens.append(token)

    def _latest_match(self) -> tuple[int | None, int]:
        for length in self._lengths:
            found = self._after.get(tuple(self._tokens[-length:]))
            if found is not None:
                return found, length
        return None, 0


def highest_probability(logits: NDArray[np.float32]) -> float:
    """Return max softmax(logits) of one row, at temperature 1."""
    return float(1.0 / np.exp(logits - logits.max()).sum(dtype=np.float64))
