"""The acceptance rule: how many drafted tokens are kept, and which token follows them.

Greedy: the longest prefix that the whole model would have written. Sampling: accept d with probability
min(1, p(d)/q(d)), else draw from the residual norm(max(0, p − q)) (Leviathan et al., arXiv 2211.17192 §2.3; Chen et
al., arXiv 2302.01318, algorithm 2). p and q are the distributions that sampling really draws from: penalized, with
temperature, and truncated. So the output follows p, whatever q is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.sampling import TokenSampler
from edgeskip.runtime.speculation.drafters import Proposal


@dataclass(frozen=True)
class AcceptanceResult:
    """Keep the first `accepted` drafted tokens; `token` follows them."""

    accepted: int
    token: int


def accept(
    logits: NDArray[np.float32], history: NDArray[np.int64], proposal: Proposal, sampler: TokenSampler
) -> AcceptanceResult:
    """Decide which drafted tokens to keep.

    Args:
        logits: float32 [k + 1, vocab_size] of the whole model; row i follows `history` and the first i of k drafted
            tokens.
        history: Token ids int64 [n] before the proposal.
        proposal: The k drafted tokens.
        sampler: Chooses tokens, greedily or at random.
    """
    count = len(proposal)
    if len(logits) != count + 1:
        raise ValueError(f"{count} drafted tokens need {count + 1} rows of logits, not {len(logits)}")
    text = np.concatenate([history, np.asarray(proposal.tokens, np.int64)]) if count else history
    before = len(history)
    decide = _greedy if sampler.policy.greedy else _sampled
    for i, token in enumerate(proposal.tokens):
        other = decide(logits[i], text[: before + i], token, proposal.distributions[i], sampler)
        if other is not None:
            return AcceptanceResult(i, other)
    return AcceptanceResult(count, sampler.pick(logits[count], text))


def _greedy(
    logits: NDArray[np.float32],
    text: NDArray[np.int64],
    drafted: int,
    q: NDArray[np.float64] | None,
    sampler: TokenSampler,
) -> int | None:
    """Return None if `drafted` is the model's own choice, else that choice."""
    token = sampler.pick(logits, text)
    return None if token == drafted else token


def _sampled(
    logits: NDArray[np.float32],
    text: NDArray[np.int64],
    drafted: int,
    q: NDArray[np.float64] | None,
    sampler: TokenSampler,
) -> int | None:
    """Return None if `drafted` is accepted, else a token drawn from the residual distribution."""
    p = sampler.distribution(logits, text)
    chance = 1.0 if q is None else float(q[drafted])
    if sampler.random() * chance < p[drafted]:
        return None
    if q is None:
        p[drafted] = 0.0
        residual = p
    else:
        residual = np.maximum(p - q, 0.0)
        if not residual.any():  # p = q up to rounding, and the draw fell into the rounding
            residual = p
    return sampler.draw(residual)
