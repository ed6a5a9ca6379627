"""How often a drafter turns out right, by how sure it was: running estimates that drift with the text."""

from __future__ import annotations

from collections.abc import Sequence

CONFIDENCE_BINS = 10
_MEMORY = 0.99  # what an observation weighs after one more of its grade: about the last hundred count
_PRIOR_WEIGHT = 4.0  # observations that the first guess is worth


class AcceptanceEstimator:
    """Acceptance rate of drafted tokens in each of `CONFIDENCE_BINS` grades.

    `prior[g]` is the first guess for grade g; a drafter's own probability is one, corrected by what happens.
    """

    def __init__(self, prior: Sequence[float]) -> None:
        self._accepted = [_PRIOR_WEIGHT * rate for rate in prior]
        self._offered = [_PRIOR_WEIGHT] * len(prior)

    def rate(self, grade: int) -> float:
        return self._accepted[grade] / self._offered[grade]

    def mean(self) -> float:
        """Over the grades as they come up."""
        return sum(self._accepted) / sum(self._offered)

    def see(self, grade: int, *, accepted: bool) -> None:
        """One drafted token was reached by the verifier, and accepted or not."""
        self._accepted[grade] = _MEMORY * self._accepted[grade] + accepted
        self._offered[grade] = _MEMORY * self._offered[grade] + 1.0


def prior_by_confidence(agreement: float | None) -> list[float]:
    """First guess for grades of the draft's own highest probability, g/GRADES … (g+1)/GRADES: that it is honest.

    A draft that was calibrated to agree rarely is believed less: its probabilities come from an untrained exit.
    """
    trust = 1.0 if agreement is None else min(1.0, 0.5 + agreement)
    return [trust * (grade + 0.5) / CONFIDENCE_BINS for grade in range(CONFIDENCE_BINS)]


def confidence_bin(confidence: float) -> int:
    return min(CONFIDENCE_BINS - 1, int(confidence * CONFIDENCE_BINS))


def prior_by_match_length() -> list[float]:
    """First guess for grades of the length of the n-gram that was found before: 2 tokens rarely go on alike."""
    return [min(0.9, 0.15 * length) for length in range(CONFIDENCE_BINS)]
