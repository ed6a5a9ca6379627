"""Plain and speculative decoding of one prompt by one artifact: both generations, and whether they say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgeskip.runtime.generation import Generation
    from edgeskip.runtime.sampling import Sampling
    from edgeskip.runtime.session import Session

NEAR_TIE = 1e-3  # logits nearer than this are rounding's to decide in fp32


@dataclass(frozen=True)
class TokenDifference:
    """Where two greedy texts part. Batched verification and one-token steps round differently, so a near tie may fall
    either way; `margin` tells how near: the whole model's highest logit there less its second highest."""

    position: int  # of the first generated token that differs
    margin: float


@dataclass(frozen=True)
class DecodingComparison:
    """`difference` None: every token is the same, or the texts need not be: drawn, or not verified."""

    plain: Generation
    other: Generation
    greedy: bool  # both by the whole model's likeliest token each time, so that the tokens can be compared
    difference: TokenDifference | None

    @property
    def speedup(self) -> float:
        """Decode tokens/s over those of the plain generation; 0 where there is none."""
        plain = self.plain.stats.decode_tokens_per_s
        return self.other.stats.decode_tokens_per_s / plain if plain else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
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
    """Where the generated `texts` after `prompt` first part, None where the one is as the other; runs the engine.

    `sampling` is what chose their tokens, None = greedy without a penalty.
    """
    one, other = texts
    if tuple(one) == tuple(other):
        return None
    pairs = zip(one, other, strict=False)
    position = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    engine = session.engine
    engine.truncate(0)
    tokens = np.concatenate([prompt, np.asarray(one[:position], np.int64)])
    from edgeskip.runtime.engines.prefill import prefill
    from edgeskip.runtime.sampling import penalized_logits

    logits = penalized_logits(prefill(engine, tokens), tokens, sampling.repetition_penalty if sampling else 1.0)
    second, first = np.partition(logits, -2)[-2:].tolist()
    return TokenDifference(position, first - second)
