"""Estimate how often a drafter's tokens are accepted, by how sure it was: running averages that follow the text."""

from __future__ import annotations

from collections.abc import Sequence

CONFIDENCE_BINS = 10
_MEMORY = 0.99  # weight of an observation after one more in its bin: about the last hundred count
_PRIOR_WEIGHT = 4.0  # observations that the prior is worth


class AcceptanceEstimator:
    """Acceptance rate of drafted tokens in each of `CONFIDENCE_BINS` bins.

    Args:
        prior: First guess of the rate for each bin. A drafter's own probability is a good one; observations correct it.
    """

    def __init__(self, prior: Sequence[float]) -> None:
        self._accepted = [_PRIOR_WEIGHT * rate for rate in prior]
        self._offered = [_PRIOR_WEIGHT] * len(prior)

    def rate(self, bin_index: int) -> float:
        """Return the estimated acceptance rate of one bin."""
        return self._accepted[bin_index] / self._offered[bin_index]

    def mean(self) -> float:
        """Return the estimated acceptance rate over all bins, weighted by how often each occurs."""
        return sum(self._accepted) / sum(self._offered)

    def update(self, bin_index: int, *, accepted: bool) -> None:
        """Record that the verifier reached a drafted token, and whether it accepted it."""
        self._accepted[bin_index] = _MEMORY * self._accepted[bin_index] + accepted
        self._offered[bin_index] = _MEMORY * self._offered[bin_index] + 1.0


def confidence_bin(confidence: float) -> int:
    """Return the bin of a probability from 0 to 1."""
    return min(CONFIDENCE_BINS - 1, int(confidence * CONFIDENCE_BINS))


def prior_by_confidence(agreement: float | None) -> list[float]:
    """Return a prior for bins of the draft's own highest probability: its middle, as if the draft were calibrated.

    A draft that rarely agreed with the model during calibration is trusted less: its probabilities come from an
    untrained exit.

    Args:
        agreement: Share of held-out tokens that the draft predicted as the whole model does; None = unknown.
    """
    trust = 1.0 if agreement is None else min(1.0, 0.5 + agreement)
    return [trust * (index + 0.5) / CONFIDENCE_BINS for index in range(CONFIDENCE_BINS)]


def prior_by_match_length() -> list[float]:
    """Return a prior for bins of the matched n-gram's length: after a match of 2 tokens the text seldom repeats."""
    return [min(0.9, 0.15 * length) for length in range(CONFIDENCE_BINS)]
