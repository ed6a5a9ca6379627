"""What a search's progress promises. Oracle: a search played by hand whose work is known."""

from __future__ import annotations

import pytest

from edgeskip.planning.search.progress_estimate import SearchEstimate


def play(steps: int, *, per_step: int = 6, sublayers: int = 60, most_skips: int = 59) -> tuple[list[float], float]:
    """A search whose KL grows from 0.005 to 1 nat in `steps` steps; what was promised as its total on the way."""
    growth = 200 ** (1 / (steps - 1))
    estimate = SearchEstimate(sublayers, most_skips, max_kl=1.0, report_cost=2.0)
    totals = [estimate.total]
    for path in range(2):
        for step in range(steps):
            for _ in range((sublayers if path == 0 else 0) if step == 0 else per_step if path == 0 else per_step // 2):
                estimate.measured()
                totals.append(estimate.total)
            estimate.stepped(0.005 * growth**step)
        estimate.next_path()
    plans = int(1.6 * steps)
    for done in range(plans + 1):
        estimate.reporting(done, plans)
        totals.append(estimate.total)
    return totals, estimate.done


@pytest.mark.parametrize(("steps", "most"), [(24, 59), (12, 59), (40, 59), (8, 8)])
def test_the_total_is_near_and_ends_exact(steps: int, most: int) -> None:
    totals, done = play(steps, most_skips=most)
    assert totals[-1] == pytest.approx(done)
    middle = totals[len(totals) // 2]
    assert 0.6 * done < middle < 1.6 * done
    assert 0.3 * done < totals[0] < 3 * done


def test_a_search_of_few_sublayers() -> None:
    estimate = SearchEstimate(8, 7, max_kl=1.0, report_cost=2.0)
    for _ in range(8):
        estimate.measured()
        assert estimate.total >= estimate.done
    for kl in (0.0, 0.1, 0.05, 0.0):
        estimate.stepped(kl)
        assert estimate.total >= estimate.done
