"""A chi-square test whose p-value is exact at any count: against draws from the target distribution itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIMULATIONS = 2000


def p_value(counts: NDArray[np.int64], target: NDArray[np.float64], seed: int = 0) -> float:
    """Share of samples from `target` that lie at least as far from it as `counts` does (Monte Carlo chi-square).

    A count where the target has no probability at all makes it 0.
    """
    target = target.ravel() / target.sum()
    counts = counts.ravel()
    if counts[target == 0].any():
        return 0.0
    kept = target > 0
    total = int(counts.sum())
    expected = total * target[kept]
    samples = np.random.default_rng(seed).multinomial(total, target[kept], SIMULATIONS)
    distances = ((samples - expected) ** 2 / expected).sum(axis=1)
    distance = ((counts[kept] - expected) ** 2 / expected).sum()
    return float((1 + (distances >= distance).sum()) / (1 + SIMULATIONS))
