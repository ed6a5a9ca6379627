"""What a user may choose about speculation: who drafts, how much, and when drafting stops."""

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
    """`num_speculations` is γ, the tokens drafted a round. The default chooses everything from what it measures."""

    drafter: DrafterName | None = None
    """`model`: the artifact's own draft; `ngram`: continuations of what the text said before (prompt lookup), which
    needs no weights; `mixed`: n-grams where there is one, else the model. None = model where there is one, else ngram.
    With γ auto, None tries both."""
    num_speculations: int | Auto = "auto"
    """γ; auto = as many as pay by measured costs and running acceptance, none (plain decoding) where none do."""
    confidence: float = 0.0
    """Drafting stops where the draft's likeliest token has less probability than this; 0 = never for that reason."""
    exit_layer: int | None = None
    """Which exit drafts, where the artifact has several; None = the first, or with γ auto the one that pays most."""
    ngram: int = 4
    """Longest suffix of the text that is looked up; the shortest is 2 tokens."""

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
            raise EdgeSkipError("n-grams have no exit layer: choose the drafter model or mixed, or leave it out")
        if self.drafter == "ngram" and self.confidence:
            raise EdgeSkipError("n-grams have no confidence: choose the drafter model or mixed, or leave it out")
        if check_count(self.ngram, "the longest n-gram", least=0) < 2:
            raise EdgeSkipError(f"the longest n-gram must have at least 2 tokens, not {self.ngram}")

    @property
    def auto(self) -> bool:
        return self.num_speculations == "auto"

    @property
    def limit(self) -> int:
        """Most tokens drafted in a round."""
        return MOST if self.num_speculations == "auto" else self.num_speculations
