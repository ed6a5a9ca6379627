"""Rules for when drafting stops within a round.

All rules look at the distribution alone, never at the token drawn from it: dropping a token because of what it is would
change the output's distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgeskip.runtime.speculation.acceptance_estimator import AcceptanceEstimator


class DraftLength(Protocol):
    """Decides how many tokens one round drafts; asked once for every token before it is drawn."""

    needs_confidence: bool

    def keep(self, confidence: float, confidence_bin: int) -> bool:
        """Return whether to propose a token whose distribution has `confidence` as its highest probability."""

    def wants_more(self) -> bool:
        """Return whether to draft one more token after those kept."""


@dataclass
class FixedDraftLength:
    """γ tokens, fewer if the confidence falls below a threshold."""

    limit: int
    confidence: float = 0.0
    kept: int = 0

    def __post_init__(self) -> None:
        self.needs_confidence = self.confidence > 0

    def keep(self, confidence: float, confidence_bin: int) -> bool:
        if self.confidence and confidence < self.confidence:
            return False
        self.kept += 1
        return True

    def wants_more(self) -> bool:
        return self.kept < self.limit


@dataclass
class AdaptiveDraftLength:
    """As many tokens as pay for themselves.

    One more token costs `row_s` to verify and `draft_s` to draft, and saves `plain_s` if it and all before it are
    accepted. A `trial` keeps its first token, if that passes the user's threshold, whatever is expected of it: a
    drafter that is never tried never gets another chance.
    """

    limit: int
    acceptance: AcceptanceEstimator
    plain_s: float
    draft_s: float
    row_s: float
    confidence: float = 0.0
    trial: bool = False
    kept: int = 0
    survival: float = 1.0  # estimated chance that all kept so far are accepted
    needs_confidence: bool = True

    def keep(self, confidence: float, confidence_bin: int) -> bool:
        chance = self.survival * self.acceptance.rate(confidence_bin)
        tried = self.trial and self.kept == 0
        if confidence < self.confidence or (not tried and chance * self.plain_s <= self.row_s):
            return False
        self.survival = chance
        self.kept += 1
        return True

    def wants_more(self) -> bool:
        if self.kept == 0:
            return self.limit > 0
        gain = self.survival * self.acceptance.mean() * self.plain_s
        return self.kept < self.limit and gain > self.draft_s + self.row_s
