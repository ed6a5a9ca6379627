"""What a user may choose about speculation: who drafts, how many tokens, and when drafting stops."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Literal, get_args

from edgeskip.core.errors import EdgeSkipError, shown
from edgeskip.runtime.arguments import check_count, check_real

DrafterName = Literal["model", "ngram", "mixed"]
DRAFTERS: tuple[DrafterName, ...] = get_args(DrafterName)
MOST = 16  # tokens drafted in one round
Auto = Literal["auto"]


@dataclass(frozen=True)
class Speculation:
    """How drafts are made and verified. By default everything is chosen from measurements.

    Args:
        drafter: `model`: the artifact's own draft. `ngram`: continuations of earlier text (prompt lookup), which needs
            no weights. `mixed`: n-grams if one matches, else the model. None = the model if the artifact has a draft,
            else n-grams; with γ auto, both are tried.
        num_speculations: Tokens γ to draft per round, 1 to 16. `auto`: as many as pay off by measured latencies and
            the acceptance so far, none (plain decoding) if none do.
        confidence: Stop drafting if the draft's likeliest token is less probable than this, 0 to 1; 0 = never.
        exit_layer: Exit that drafts, in blocks of the model, if the artifact has several; None = the first or, with γ
            auto, the one that pays off most.
        ngram: Longest suffix of the text to look up, at least 2 tokens.

    Raises:
        EdgeSkipError: If a value is unknown, out of range, or has no effect with the drafter.

    Example:
        >>> edgeskip.Speculation(drafter="ngram", num_speculations=4).limit
        4
    """

    drafter: DrafterName | None = None
    num_speculations: int | Auto = "auto"
    confidence: float = 0.0
    exit_layer: int | None = None
    ngram: int = 4

    def __post_init__(self) -> None:
        if self.drafter is not None and self.drafter not in DRAFTERS:
            raise EdgeSkipError(f"drafter {self.drafter} is unknown: choose one of {', '.join(DRAFTERS)}")
        if self.num_speculations != "auto":
            number: object = self.num_speculations
            if isinstance(number, bool) or not isinstance(number, numbers.Integral) or not 1 <= int(number) <= MOST:
                raise EdgeSkipError(f"num_speculations must be 1 … {MOST} or auto, not {shown(number)}")
            object.__setattr__(self, "num_speculations", int(number))
        if self.exit_layer is not None:
            object.__setattr__(self, "exit_layer", check_count(self.exit_layer, "exit_layer", least=0))
        if not 0 <= check_real(self.confidence, "the draft's confidence") <= 1:
            raise EdgeSkipError(f"the draft's confidence must be from 0 to 1, not {self.confidence}")
        if self.drafter == "ngram" and self.exit_layer is not None:
            raise EdgeSkipError("n-grams have no exit layer: choose the drafter model or mixed, or drop the exit layer")
        if self.drafter == "ngram" and self.confidence:
            raise EdgeSkipError("n-grams have no confidence: choose the drafter model or mixed, or drop the confidence")
        if check_count(self.ngram, "the longest n-gram", least=0) < 2:
            raise EdgeSkipError(f"the longest n-gram must have at least 2 tokens, not {self.ngram}")

    @property
    def auto(self) -> bool:
        """Whether γ is chosen from measurements."""
        return self.num_speculations == "auto"

    @property
    def limit(self) -> int:
        """Most tokens that a round drafts."""
        return MOST if self.num_speculations == "auto" else self.num_speculations
