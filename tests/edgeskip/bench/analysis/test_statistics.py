"""Ratios with intervals. Oracle: tables of Student's t, and examples worked by hand."""

from __future__ import annotations

import math

import pytest

from edgeskip.bench.analysis.statistics import paired_ratio, t_quantile, unpaired_ratio


@pytest.mark.parametrize(("freedom", "value"), [(1, 12.706), (4, 2.776), (9, 2.262), (30, 2.042), (120, 1.980)])
def test_quantiles_are_those_of_the_tables(freedom: int, value: float) -> None:
    assert t_quantile(freedom) == pytest.approx(value, abs=2e-3)


def test_between_whole_degrees_and_far_beyond() -> None:
    assert t_quantile(1.5) == pytest.approx((12.706 + 4.303) / 2)
    assert t_quantile(1e9) == pytest.approx(1.96, abs=1e-3)
    assert t_quantile(0.2) == 12.706


def test_a_paired_ratio_by_hand() -> None:
    """Ratios 2, 2, 0.5: logs ±ln 2, mean ln 2 / 3, sd ln 2 · 2/√3; half width t(2) · sd / √3."""
    found = paired_ratio([2, 4, 1], [1, 2, 2])
    half = 4.303 * math.log(2) * 2 / math.sqrt(3) / math.sqrt(3)
    assert found.value == pytest.approx(2 ** (1 / 3))
    assert found.low == pytest.approx(2 ** (1 / 3) * math.exp(-half))
    assert found.high == pytest.approx(2 ** (1 / 3) * math.exp(half))


def test_pairs_that_drift_together_leave_no_doubt() -> None:
    """The machine is twice as slow in round 2: the ratio is the same in both."""
    found = paired_ratio([10, 5], [8, 4])
    assert (found.value, found.low, found.high) == pytest.approx((1.25, 1.25, 1.25))


def test_one_measurement_has_no_interval() -> None:
    for found in (paired_ratio([3], [2]), unpaired_ratio([3], [2]), unpaired_ratio([3], [2, 2])):
        assert found.value == pytest.approx(1.5)
        assert (found.low, found.high) == (None, None)


def test_welch_by_hand() -> None:
    """Logs 0, 2 against 0, 0, 3: means 1 and 1; variances 2/2 and 3/3; 4 / (1/1 + 1/2) = 8/3 degrees."""
    ours, theirs = [1, math.e**2], [1, 1, math.e**3]
    found = unpaired_ratio(ours, theirs)
    t = 4.303 + (2 / 3) * (3.182 - 4.303)
    assert found.value == pytest.approx(1)
    assert found.high == pytest.approx(math.exp(t * math.sqrt(2)))
    assert found.low == pytest.approx(math.exp(-t * math.sqrt(2)))


def test_two_constants() -> None:
    found = unpaired_ratio([4, 4], [2, 2])
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))
