"""Greedy paths through the plans: each step skips the sublayer whose loss is least, as it is or for its time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edgeskip.planning.search.plan_evaluator import PlanEvaluator, SkipSet

if TYPE_CHECKING:
    from edgeskip.planning.search.policy import SearchPolicy
    from edgeskip.planning.search.quality import PlanQuality

LEAST, MOST = 4, 16  # candidates tried at a step after the first, which tries all
Saved = Callable[[SkipSet, int], float]
"""A plan and one more sublayer → what skipping that is worth, above 0: seconds, or 1."""


def greedy_path(
    evaluator: PlanEvaluator,
    policy: SearchPolicy,
    saved: Saved,
    *,
    progress: Callable[[SkipSet], None] = lambda plan: None,
) -> Iterator[tuple[SkipSet, PlanQuality]]:
    """Yield plans of 1, 2, … sublayers, each the one before plus the sublayer that costs least for what it saves.

    Skipping one sublayer seldom makes another cheaper to skip, so what a candidate cost when it was last tried is a
    lower bound: the step ends when the best found is better than what the next promised (Minoux's lazy greedy).
    `progress` is called with every plan before it is measured.
    """
    plan: SkipSet = frozenset()
    loss = _loss(evaluator.dense, policy)
    promised = dict.fromkeys(range(evaluator.num_sublayers), -math.inf)
    most_skips = policy.max_skips or evaluator.num_sublayers - 1
    while len(plan) < min(most_skips, evaluator.num_sublayers - 1):
        evaluator.set_base(plan)
        best, chosen = math.inf, -1
        for number, candidate in enumerate(sorted(promised, key=lambda index: (promised[index], index))):
            if plan and number >= LEAST and (best <= promised[candidate] or number >= MOST):
                break
            progress(plan | {candidate})
            found = _loss(evaluator.quality(plan | {candidate}), policy)
            change, worth = found - loss, saved(plan, candidate)
            cost = change / worth if change > 0 else change * worth
            promised[candidate] = cost if math.isfinite(cost) else math.inf
            if cost < best:
                best, chosen = cost, candidate
        if chosen < 0:
            return
        plan |= {chosen}
        del promised[chosen]
        quality = evaluator.quality(plan)
        loss = _loss(quality, policy)
        if not quality.kl <= policy.max_kl:
            return
        yield plan, quality


def _loss(quality: PlanQuality, policy: SearchPolicy) -> float:
    return quality.kl if policy.objective == "kl" else quality.loss
