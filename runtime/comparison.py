"""Plain decoding compared with another strategy, for one prompt and one artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.engines.prefill import prefill
from edgeskip.runtime.generation import Generation
from edgeskip.runtime.sampling import Sampling, penalized_logits
from edgeskip.runtime.session import Session

NEAR_TIE = 1e-3  # logits closer than this are decided by rounding in fp32


@dataclass(frozen=True)
class TokenDifference:
    """Where two greedy texts diverge.

    Batched verification and one-token steps round differently, so a near tie may go either way.

    Attributes:
        position: Index of the first generated token that differs.
        margin: How near the tie was: the whole model's highest logit there minus its second highest.
    """

    position: int
    margin: float


@dataclass(frozen=True)
class DecodingComparison:
    """Two answers to one prompt.

    Attributes:
        plain: By plain decoding.
        other: By another strategy.
        greedy: Whether both take the whole model's likeliest token each time, so that the tokens can be compared.
        difference: Where they diverge; None if they do not, or need not agree (sampled, or not verified).
    """

    plain: Generation
    other: Generation
    greedy: bool
    difference: TokenDifference | None

    @property
    def speedup(self) -> float:
        """Decode tokens/s over those of the plain generation; 0 if it decoded nothing."""
        plain = self.plain.stats.decode_tokens_per_s
        return self.other.stats.decode_tokens_per_s / plain if plain else 0.0

    def as_dict(self) -> dict[str, object]:
        """Return the same as plain data, which `json.dumps` writes."""
        difference = self.difference
        return {
            "plain": self.plain.as_dict(),
            self.other.strategy: self.other.as_dict(),
            "identical": (self.plain.tokens == self.other.tokens) if self.greedy else None,
            "first_difference": difference and {"position": difference.position, "top2_margin": difference.margin},
            "speedup": self.speedup,
        }


def find_difference(
    session: Session, prompt: NDArray[np.int64], *texts: Sequence[int], sampling: Sampling | None = None
) -> TokenDifference | None:
    """Return where two generated texts diverge; None if they are equal. Runs the engine.

    Args:
        session: The artifact that generated both.
        prompt: Token ids int64 [n].
        texts: Token ids of the two answers.
        sampling: How their tokens were chosen; None = greedy without a penalty.
    """
    one, other = texts
    if tuple(one) == tuple(other):
        return None
    pairs = zip(one, other, strict=False)
    position = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    engine = session.engine
    engine.truncate(0)
    tokens = np.concatenate([prompt, np.asarray(one[:position], np.int64)])
    logits = penalized_logits(prefill(engine, tokens), tokens, sampling.repetition_penalty if sampling else 1.0)
    second, first = np.partition(logits, -2)[-2:].tolist()
    return TokenDifference(position, first - second)
