"""How sure a mean is: percentile bootstrap, with a fixed seed so that the same scores give the same interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
Values = Sequence[float] | NDArray[np.float64]


def interval(*scores: Values, of: Callable[..., NDArray[np.float64]], seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of `of(mean, …)`, a mean for each of the `scores`, which are resampled together: pairs stay pairs.

    None if the samples do not show their spread: fewer than two, or all alike.
    """
    columns = [np.asarray(one, np.float64) for one in scores]
    count = len(columns[0])
    if count < 2:
        return None
    drawn = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    values = of(*(column[drawn].mean(axis=1) for column in columns))
    low, high = np.percentile(values, (2.5, 97.5)).tolist()
    return (low, high) if low < high else None
