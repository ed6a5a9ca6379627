"""From logits to the next token: a frozen policy, the distribution that it leaves, and a seeded draw from it.

The rules and their order are those of transformers: repetition penalty, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.arguments import check_count, check_real

COLDEST = 1e-30  # lower temperatures draw the same, and would be 0 in float32
HOTTEST = 1000.0  # at which every token is as likely as any other
LEAST_PENALTY, MOST_PENALTY = 0.01, 100.0  # far beyond any useful value, and no logit overflows
BLOCK = 256  # weights whose sum is taken at once when drawing
BINS_PER_NAT, LAST_BIN = 16, 1023  # of the histogram that finds where top-p cuts


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. By default greedily: the likeliest token, the same everywhere.

    Args:
        temperature: Divides the logits, 0 to 1000; 0 = greedy.
        top_k: Keep the k likeliest tokens; 0 = all.
        top_p: Keep the fewest tokens whose probabilities sum to this, above 0 and at most 1.
        min_p: Keep tokens at least this many times as likely as the likeliest, 0 to 1.
        repetition_penalty: Above 1 makes tokens of the prompt and of the answer so far less likely (CTRL, §4.1); 1 =
            none.
        seed: Makes the draws repeatable; None = a new seed for each generation.

    Raises:
        EdgeSkipError: If a value has a wrong type or is out of range.

    Example:
        >>> edgeskip.Sampling(temperature=0.7, top_p=0.9, seed=1).greedy
        False
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            object.__setattr__(self, name, check_real(getattr(self, name), name))
        object.__setattr__(self, "top_k", check_count(self.top_k, "top_k", least=0))
        if self.seed is not None:
            object.__setattr__(self, "seed", check_count(self.seed, "seed", least=0))
        limits = {
            "temperature": (0 <= self.temperature <= HOTTEST, f"from 0 (greedy) to {HOTTEST:g}"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1"),
            "repetition_penalty": (
                LEAST_PENALTY <= self.repetition_penalty <= MOST_PENALTY,
                f"from {LEAST_PENALTY:g} to {MOST_PENALTY:g} (1 = none)",
            ),
        }
        for name, (holds, allowed) in limits.items():
            if not holds:
                raise EdgeSkipError(f"{name} must be {allowed}, not {getattr(self, name)}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0


class TokenSampler:
    """Draws tokens by one policy; the same seed, logits and history give the same tokens.

    Args:
        policy: How tokens are chosen.
    """

    def __init__(self, policy: Sampling) -> None:
        self.policy = policy
        self._random = np.random.default_rng(policy.seed)

    def pick(self, logits: NDArray[np.float32], history: NDArray[np.int64]) -> int:
        """Return the next token after `history` (prompt and generated tokens) given `logits` [vocab_size]."""
        scores = penalized_logits(logits, history, self.policy.repetition_penalty)
        if self.policy.greedy:
            return _likeliest(scores)
        tokens, weights = _candidates(scores, self.policy)
        index = _draw(weights, self._random.random())
        return index if tokens is None else int(tokens[index])

    def distribution(self, logits: NDArray[np.float32], history: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the truncated distribution float64 [vocab_size] that `pick` draws from, a new array."""
        return distribution(logits, history, self.policy)

    def draw(self, weights: NDArray[np.float64]) -> int:
        """Return an index drawn with probabilities in proportion to `weights` [n]."""
        return _draw(weights, self._random.random())

    def random(self) -> float:
        """Return a draw from [0, 1)."""
        return self._random.random()


def distribution(logits: NDArray[np.float32], history: NDArray[np.int64], policy: Sampling) -> NDArray[np.float64]:
    """Return the truncated distribution float64 [vocab_size] that `policy` draws from; one-hot if greedy."""
    scores = penalized_logits(logits, history, policy.repetition_penalty)
    result = np.zeros(len(scores))
    if policy.greedy:
        result[_likeliest(scores)] = 1
    else:
        tokens, weights = _candidates(scores, policy)
        result[slice(None) if tokens is None else tokens] = weights / weights.sum(dtype=np.float64)
    return result


def penalized_logits(logits: NDArray[np.float32], history: NDArray[np.int64], penalty: float) -> NDArray[np.float32]:
    """Return logits [vocab_size] that make every token of `history` less likely (CTRL, §4.1).

    If there is nothing to do, it is the same array.
    """
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
    """Return the tokens that survive truncation (None = all, in order) and their unnormalized probabilities."""
    highest = scores[_likeliest(scores)]
    size = len(scores)
    tokens = None
    if 0 < policy.top_k < size:
        # Not a sort: the k-th largest alone, in linear time.
        tokens = np.flatnonzero(scores >= np.partition(scores, size - policy.top_k)[size - policy.top_k])
        scores = scores[tokens]
    exponents = scores - highest
    exponents /= np.float32(max(policy.temperature, COLDEST))
    weights = np.exp(exponents)  # the likeliest token weighs 1
    if policy.top_p < 1:
        chosen = _fewest_reaching(policy.top_p, exponents, weights)
        tokens, weights = chosen if tokens is None else tokens[chosen], weights[chosen]
    if policy.min_p > 0:
        chosen = np.flatnonzero(weights >= policy.min_p * weights.max())
        tokens, weights = chosen if tokens is None else tokens[chosen], weights[chosen]
    return tokens, weights


def _fewest_reaching(share: float, exponents: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the indices of the fewest largest `weights` = exp(`exponents`) whose sum reaches `share` of the total.

    Sorting a whole vocabulary costs more than the rest of Python's step. So a histogram over the exponents finds the
    bin in which the share is reached: heavier tokens are kept, lighter ones dropped, and only that bin is sorted.
    """
    # All weights below this one can be left out together: on real text, few tokens of the vocabulary remain.
    total = float(weights.sum(dtype=np.float64))
    likely = np.flatnonzero(weights > (1 - share) * total / len(weights))
    exponents, weights = exponents[likely], weights[likely]
    bins = (np.minimum(exponents * -BINS_PER_NAT, LAST_BIN)).astype(np.int64)
    reached = np.cumsum(np.bincount(bins, weights=weights))
    wanted = min(share * total, reached[-1])
    border = int(np.searchsorted(reached, wanted))
    above = float(reached[border - 1]) if border else 0.0
    inside = np.flatnonzero(bins == border)
    inside = inside[np.argsort(-weights[inside], kind="stable")]
    count = int(np.searchsorted(above + np.cumsum(weights[inside], dtype=np.float64), wanted)) + 1
    chosen: NDArray[np.int64] = likely[np.concatenate([np.flatnonzero(bins < border), inside[:count]])]
    return chosen


def _draw(weights: NDArray[np.float32] | NDArray[np.float64], random: float) -> int:
    """Return the index at which the running sum of `weights` passes `random` (0 … 1) of the total, block by block."""
    starts = np.arange(0, len(weights), BLOCK)
    blocks = np.cumsum(np.add.reduceat(weights, starts, dtype=np.float64))
    target = random * blocks[-1]
    block = int(np.searchsorted(blocks, target, side="right"))
    within = np.cumsum(weights[block * BLOCK : (block + 1) * BLOCK], dtype=np.float64)
    index = int(np.searchsorted(within, target - (blocks[block - 1] if block else 0.0), side="right"))
    return block * BLOCK + min(index, len(within) - 1)
