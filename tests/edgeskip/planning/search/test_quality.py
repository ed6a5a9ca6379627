"""Quality from streams. Oracle: hand calculations on windows whose losses are known."""

import math

import pytest

from edgeskip.planning.search.quality import PlanQuality


def test_a_ratio_and_its_error_by_hand() -> None:
    """Windows lose 0.1, 0.2 and 0.3 nats: 0.2 in the mean, standard deviation 0.1, standard error 0.1/√3."""
    dense = PlanQuality(0.0, 3.0, 1.0, (2.0, 3.0, 4.0))
    ratio, error = PlanQuality(0.5, 3.2, 0.9, (2.1, 3.2, 4.3)).perplexity_ratio(dense)
    assert ratio == pytest.approx(math.exp(0.2))
    assert error == pytest.approx(math.exp(0.2) * 0.1 / math.sqrt(3))


def test_one_window_tells_no_error() -> None:
    assert PlanQuality(0.5, 3.2, 0.9, (3.2,)).perplexity_ratio(PlanQuality(0.0, 3.0, 1.0, (3.0,))) == (
        pytest.approx(math.exp(0.2)),
        0.0,
    )
