"""Ratios of two series of measurements with their 95 % interval: geometric means, Student's t on the logarithms.

Times of one thing scatter by factors, not by differences, and rounds are few: hence logarithms, hence t.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided 95 % quantiles of Student's t by degrees of freedom (any table of them); beyond, the normal one is near.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


_MOST = math.log(1e30)  # of a ratio: beyond it is as good as infinite, and still a number of JSON


@dataclass(frozen=True)
class Ratio:
    """A ratio and its 95 % interval; `low` and `high` are None if one measurement tells nothing of its spread."""

    value: float
    low: float | None
    high: float | None


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Return the geometric mean of ours[i] / theirs[i], of at least one pair of positive numbers.

    Paired, so that a machine that drifts from round to round changes both of a pair.
    """
    return _of([math.log(a) - math.log(b) for a, b in zip(ours, theirs, strict=True)])


def unpaired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Return the geometric mean of ours over that of theirs, two independent series; the interval is Welch's."""
    a, b = [math.log(x) for x in ours], [math.log(x) for x in theirs]
    difference = statistics.fmean(a) - statistics.fmean(b)
    if len(a) < 2 or len(b) < 2:
        return Ratio(_exp(difference), None, None)
    va, vb = statistics.variance(a) / len(a), statistics.variance(b) / len(b)
    if va + vb == 0:
        return Ratio(_exp(difference), _exp(difference), _exp(difference))
    share = va / (va + vb)  # squares of the variances themselves may be too small for a float
    freedom = 1 / (share**2 / (len(a) - 1) + (1 - share) ** 2 / (len(b) - 1))
    half = t_quantile(freedom) * math.sqrt(va + vb)
    return Ratio(_exp(difference), _exp(difference - half), _exp(difference + half))


def t_quantile(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t, linear between whole degrees of freedom; at least one degree."""
    below = max(1, min(math.floor(freedom), len(_T)))
    if below == len(_T):
        return 1.96 + (_T[-1] - 1.96) * len(_T) / max(freedom, len(_T))
    share = min(1.0, max(0.0, freedom - below))
    return _T[below - 1] + share * (_T[below] - _T[below - 1])


def _of(logs: Sequence[float]) -> Ratio:
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return Ratio(_exp(mean), None, None)
    half = t_quantile(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(_exp(mean), _exp(mean - half), _exp(mean + half))


def _exp(logarithm: float) -> float:
    return math.exp(max(-_MOST, min(_MOST, logarithm)))
