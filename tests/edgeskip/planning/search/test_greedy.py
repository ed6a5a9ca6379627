"""Greedy paths. Oracle: losses that are known for every plan, so the best order is."""

from dataclasses import dataclass, field

import pytest

from edgeskip.planning.search.greedy import MOST, greedy_path
from edgeskip.planning.search.plan_evaluator import SkipSet
from edgeskip.planning.search.policy import SearchPolicy
from edgeskip.planning.search.quality import PlanQuality


@dataclass
class KnownLosses:
    """The loss of a plan is the sum of its sublayers' prices and, for neighbours, a penalty."""

    prices: list[float]
    penalty: float = 0.0
    asked: list[SkipSet] = field(default_factory=list)
    dense: PlanQuality = field(default_factory=lambda: PlanQuality(0.0, 1.0, 1.0))

    @property
    def num_sublayers(self) -> int:
        return len(self.prices)

    def set_base(self, skips: SkipSet) -> None:
        pass

    def quality(self, skips: SkipSet) -> PlanQuality:
        self.asked.append(skips)
        kl = sum(self.prices[i] for i in skips) + self.penalty * sum(i + 1 in skips for i in skips)
        return PlanQuality(kl, 1.0 + kl, 1.0)


WIDE = SearchPolicy(max_kl=100.0)


def order(losses: KnownLosses, policy: SearchPolicy = WIDE, prices: list[float] | None = None) -> list[int]:
    """Which sublayer each step adds; `prices` is what skipping each saves."""
    saved = (lambda plan, i: prices[i]) if prices else (lambda plan, i: 1.0)
    plans = [plan for plan, _ in greedy_path(losses, policy, saved)]  # type: ignore[arg-type]
    sets = [frozenset[int](), *plans]
    return [next(iter(now - before)) for before, now in zip(sets, plans, strict=False)]


def test_the_cheapest_goes_first() -> None:
    assert order(KnownLosses([0.5, 0.1, 0.4, 0.2, 0.3])) == [1, 3, 4, 2]  # one is left: a model cannot skip all


def test_what_it_saves_counts() -> None:
    losses = KnownLosses([0.2, 0.3, 0.4])
    assert order(losses, prices=[1.0, 1.0, 4.0])[0] == 2


def test_prices_that_rise_are_seen() -> None:
    """Neighbours cost more together: after 1, the next is not 2, which was promised least."""
    assert order(KnownLosses([0.5, 0.10, 0.11, 0.5, 0.2], penalty=1.0))[:2] == [1, 4]


def test_few_are_tried_after_the_first_step() -> None:
    losses = KnownLosses([0.01 * (i + 1) for i in range(40)])
    assert order(losses, SearchPolicy(max_skips=5)) == [0, 1, 2, 3, 4]
    assert len(losses.asked) <= 40 + 4 * (MOST + 1) + 5


@pytest.mark.parametrize(("policy", "steps"), [(SearchPolicy(max_skips=2), 2), (SearchPolicy(max_kl=0.35), 2)])
def test_where_it_ends(policy: SearchPolicy, steps: int) -> None:
    assert len(order(KnownLosses([0.1, 0.2, 0.3, 0.4]), policy)) == steps
