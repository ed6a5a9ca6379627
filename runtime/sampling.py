"""From logits to the next token: a frozen policy, the distribution it leaves, and a seeded draw from it.

Same rules in the same order as transformers' generation: repetition penalty, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeskip.errors import EdgeSkipError


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. The default is greedy: the most likely token, repeatable everywhere."""

    temperature: float = 0.0  # 0 = greedy
    top_k: int = 0  # keep the k most likely tokens; 0 = all
    top_p: float = 1.0  # keep the fewest tokens whose probabilities reach top_p
    min_p: float = 0.0  # keep tokens at least min_p times as likely as the likeliest
    repetition_penalty: float = 1.0  # > 1 makes tokens of the prompt and the text so far less likely (CTRL, §4.1)
    seed: int | None = None  # None = a new one each time

    def __post_init__(self) -> None:
        limits = {
            "temperature": (math.isfinite(self.temperature) and self.temperature >= 0, "at least 0 (0 = greedy)"),
            "top_k": (self.top_k >= 0, "at least 0 (0 = no limit)"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1"),
            "repetition_penalty": (
                math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0,
                "above 0 (1 = none)",
            ),
            "seed": (self.seed is None or self.seed >= 0, "at least 0"),
        }
        for name, (holds, allowed) in limits.items():
            if not holds:
                raise EdgeSkipError(f"{name} must be {allowed}, not {getattr(self, name)}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


class Sampler:
    """Draws tokens by one policy; the same seed, logits and history give the same tokens."""

    def __init__(self, policy: Sampling) -> None:
        self.policy = policy
        self._random = np.random.default_rng(policy.seed)

    def pick(self, logits: NDArray[np.float32], history: NDArray[np.int64]) -> int:
        """The next token after `history` (prompt and generated tokens) given `logits` [vocab_size]."""
        scores = _penalised(logits, history, self.policy.repetition_penalty)
        if self.policy.greedy:
            return _likeliest(scores)
        tokens, weights = _candidates(scores, self.policy)
        reached = np.cumsum(weights, dtype=np.float64)
        index = int(np.searchsorted(reached, self._random.random() * reached[-1], side="right"))
        return index if tokens is None else int(tokens[index])


def distribution(logits: NDArray[np.float32], history: NDArray[np.int64], policy: Sampling) -> NDArray[np.float64]:
    """The truncated distribution [vocab_size] that `policy` draws from; one-hot when greedy."""
    scores = _penalised(logits, history, policy.repetition_penalty)
    result = np.zeros(len(scores))
    if policy.greedy:
        result[_likeliest(scores)] = 1
    else:
        tokens, weights = _candidates(scores, policy)
        result[slice(None) if tokens is None else tokens] = weights / weights.sum(dtype=np.float64)
    return result


def _penalised(logits: NDArray[np.float32], history: NDArray[np.int64], penalty: float) -> NDArray[np.float32]:
    if penalty == 1 or not len(history):
        return logits
    scores = logits.copy()
    seen = logits[history]  # repeats are harmless: each is computed from the untouched logits
    scores[history] = np.where(seen < 0, seen * penalty, seen / penalty)
    return scores


def _likeliest(scores: NDArray[np.float32]) -> int:
    token = int(scores.argmax())  # argmax stops at the first NaN, so this finds one anywhere
    if not math.isfinite(scores[token]):
        raise EdgeSkipError(f"the model computed {scores[token]} as a logit: export it in a wider precision (fp32)")
    return token


def _candidates(scores: NDArray[np.float32], policy: Sampling) -> tuple[NDArray[np.int64] | None, NDArray[np.float32]]:
    """Tokens that survive truncation (None = all, in order) and their weights, probabilities up to a factor."""
    highest = scores[_likeliest(scores)]
    size = len(scores)
    tokens = None
    if 0 < policy.top_k < size:
        # Not a sort: the k-th largest alone, in linear time.
        tokens = np.flatnonzero(scores >= np.partition(scores, size - policy.top_k)[size - policy.top_k])
        scores = scores[tokens]
    weights = np.exp((scores - highest) / np.float32(policy.temperature))  # the likeliest token weighs 1
    if policy.top_p < 1:
        chosen = _fewest_reaching(weights, policy.top_p)
        tokens, weights = chosen if tokens is None else tokens[chosen], weights[chosen]
    if policy.min_p > 0:
        chosen = np.flatnonzero(weights >= policy.min_p * weights.max())
        tokens, weights = chosen if tokens is None else tokens[chosen], weights[chosen]
    return tokens, weights


def _fewest_reaching(weights: NDArray[np.float32], share: float) -> NDArray[np.int64]:
    """Indices of the fewest largest weights whose sum reaches `share` of the whole.

    Sorting a whole vocabulary costs a large part of a decode step, so only weights above a cut are sorted: first
    a cut that usually suffices, else one below which all weights together are less than what may be left out.
    """
    total = float(weights.sum(dtype=np.float64))
    for cut in (1e-3, (1 - share) * total / len(weights)):
        chosen = np.flatnonzero(weights > cut)
        if weights[chosen].sum(dtype=np.float64) >= share * total:
            break
    chosen = chosen[np.argsort(-weights[chosen], kind="stable")]
    reached = np.cumsum(weights[chosen], dtype=np.float64)
    count = int(np.searchsorted(reached, share * total, side="left")) + 1
    return chosen[:count]
