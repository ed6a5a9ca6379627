"""Medians, ratios and targets of the peer benchmark. Oracle: hand calculation."""

from __future__ import annotations

import pytest
from harness.driver import Run
from harness.figures import Spread, Target, agreement, figures_of, ratios_of


def run(prefill_s: float, *token_s: float, tokens: tuple[int, ...] = (), **more: object) -> Run:
    return Run(tokens, prefill_s, token_s, peak_rss_bytes=100, **more)  # type: ignore[arg-type]


def near(spread: Spread, median: float, low: float, high: float) -> bool:
    return (spread.median, spread.low, spread.high) == pytest.approx((median, low, high))


def test_spread_is_median_least_and_greatest() -> None:
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
    assert Spread.of(iter([4.0, 2.0])) == Spread(3.0, 2.0, 4.0)


def test_figures_of_three_rounds() -> None:
    runs = [run(2.0, 0.1, 0.3), run(4.0, 0.25, 0.25), run(1.0, 0.5, 0.5)]
    figures = figures_of(runs, prompt_tokens=8)
    assert figures.prefill_tokens_per_s == Spread(4.0, 2.0, 8.0)
    assert near(figures.decode_tokens_per_s, 4.0, 2.0, 5.0)
    assert figures.ttft_s == Spread(2.0, 1.0, 4.0)
    assert near(figures.tpot_s, 0.25, 0.2, 0.5)
    assert figures.python_share is None
    assert figures.others_cores is None


def test_python_share_is_what_the_runtime_did_not_take() -> None:
    runs = [run(1.0, 0.5, 0.5, notes={"runtime_s": 0.96}, others_cores=0.5), run(1.0, 1.0, 1.0, others_cores=0.1)]
    figures = figures_of(runs, prompt_tokens=1)
    assert near(figures.python_share, 0.04, 0.04, 0.04)
    assert figures.others_cores == pytest.approx(0.3)


def test_ratios_pair_rounds() -> None:
    """The machine runs at half speed in round 2: of unpaired medians nothing would show it, pairs cancel it."""
    ours = [run(1.0, 0.1, 0.1), run(2.0, 0.2, 0.2), run(1.0, 0.1, 0.1)]
    theirs = [run(3.0, 0.2, 0.2), run(6.0, 0.4, 0.4), run(3.0, 0.4, 0.2)]
    ratios = ratios_of(ours, theirs)
    assert ratios.prefill == Spread(3.0, 3.0, 3.0)
    assert near(ratios.decode, 2.0, 2.0, 3.0)


def test_ratios_need_the_same_rounds() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios_of([run(1.0, 1.0)], [run(1.0, 1.0), run(1.0, 1.0)])


@pytest.mark.parametrize(("theirs", "same"), [([5, 6, 7], 3), ([5, 6, 8], 2), ([9, 6, 7], 0)])
def test_agreement_counts_to_the_first_difference(theirs: list[int], same: int) -> None:
    assert agreement([5, 6, 7], theirs) == same


@pytest.mark.parametrize(
    ("median", "at_least", "met"), [(1.3, True, True), (1.29, True, False), (1.3, False, True), (1.31, False, False)]
)
def test_target_is_judged_by_the_median(median: float, at_least: bool, met: bool) -> None:
    assert Target("x", 1.3, Spread(median, 0.0, 9.0), at_least).met is met
