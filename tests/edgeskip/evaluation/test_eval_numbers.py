"""Divergence, intervals and summaries. Oracles: hand calculation; the normal approximation; coverage of many draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.evaluation.bootstrap import interval
from edgeskip.evaluation.perplexity import cut_windows, divergence
from edgeskip.evaluation.summary import TaskResult, summarize
from edgeskip.evaluation.task import EvalRecord, Metric, TextTask

PLAIN = TextTask("plain", (), (Metric("s", "score × 100", scale=100),))
NATS = TextTask("nats", (), (Metric("s", "perplexity", exponential=True, higher_is_better=False),))


def _result(name: str, scores: Sequence[float], task: TextTask = PLAIN, start: int = 0) -> TaskResult:
    records = (EvalRecord(str(start + i), "dense", {"s": score}, tokens=2) for i, score in enumerate(scores))
    return TaskResult(task, name, tuple(records))


def test_divergence_by_hand() -> None:
    p, q = np.log(np.array([[0.5, 0.5], [0.9, 0.1]])), np.log(np.array([[0.25, 0.75], [0.9, 0.1]]))
    total, agreeing = divergence(p + 7, q)  # logits are free of a constant
    assert total == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert agreeing == 1  # a tie in p goes to the first, q's likeliest is the second


def test_what_the_reference_rules_out_adds_nothing() -> None:
    p = np.array([[0.0, -np.inf]], np.float32)
    assert divergence(p, np.zeros((1, 2), np.float32)) == (pytest.approx(math.log(2)), 1)


def test_divergence_does_not_depend_on_slices() -> None:
    random = np.random.default_rng(0)
    p, q = random.normal(size=(2, 300, 5))
    whole = divergence(p, q)
    parts = [divergence(p[i : i + 1], q[i : i + 1]) for i in range(300)]
    assert whole[0] == pytest.approx(sum(part[0] for part in parts))
    assert whole[1] == sum(part[1] for part in parts)


def test_windows() -> None:
    assert [window.tolist() for window in cut_windows(range(7), 2, 3)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(EdgeSkipError, match="has 7 tokens, not 4 × 2"):
        cut_windows(range(7), 4, 2)


def test_an_interval_is_repeatable_and_near_the_normal_one() -> None:
    scores = np.random.default_rng(1).normal(5, 2, 200)
    found = interval(scores, of=lambda mean: mean)
    assert found == interval(scores, of=lambda mean: mean)
    assert found is not None
    half = 1.96 * scores.std() / math.sqrt(200)
    assert found == (pytest.approx(scores.mean() - half, abs=0.05), pytest.approx(scores.mean() + half, abs=0.05))


def test_intervals_cover() -> None:
    """95 % of them, of 40 exponential samples a little fewer: of 200 at least 170 (1 in 10⁴ would be below at 90 %)."""
    random = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        found = interval(random.exponential(1.0, 40), of=lambda mean: mean)
        assert found is not None
        hits += found[0] <= 1.0 <= found[1]
    assert 170 <= hits <= 200


def test_no_spread_no_interval() -> None:
    assert interval([1.0], of=lambda mean: mean) is None
    assert interval([1.0, 1.0, 1.0], of=lambda mean: mean) is None


def test_perplexity_is_of_the_mean_nats() -> None:
    (summary,) = summarize([_result("a", [1.0, 2.0, 3.0], NATS)])
    assert summary.value == pytest.approx(math.exp(2))
    assert summary.interval is not None
    assert math.exp(1) <= summary.interval[0] < summary.value < summary.interval[1] <= math.exp(3)
    assert (summary.samples, summary.tokens, summary.higher_is_better) == (3, 6, False)


def test_a_difference_is_of_pairs() -> None:
    """Both spread widely, but the second is 0.01 to 0.02 better on every sample: the interval knows."""
    scores = np.linspace(0, 0.9, 30)
    better = scores + np.where(np.arange(30) % 2, 0.01, 0.02)
    first, second = summarize([_result("a", scores.tolist()), _result("b", better.tolist())])
    assert first.difference is None
    less = second.difference
    assert less is not None
    assert (less.than, less.samples, less.value) == ("a", 30, pytest.approx(1.5))
    assert less.interval is not None
    assert 1.0 <= less.interval[0] < 1.5 < less.interval[1] <= 2.0


def test_perplexities_are_subtracted_not_their_nats() -> None:
    _, second = summarize([_result("a", [1.0, 2.0], NATS), _result("b", [2.0, 3.0], NATS)])
    assert second.difference is not None
    assert second.difference.value == pytest.approx(math.exp(2.5) - math.exp(1.5))


def test_other_samples_are_not_compared() -> None:
    _, partly, not_at_all = summarize(
        [_result("a", [0, 1, 0]), _result("b", [1, 1, 1], start=1), _result("c", [1], start=9)]
    )
    assert partly.difference is not None
    assert (partly.difference.samples, partly.difference.value) == (2, pytest.approx(50))
    assert not_at_all.difference is None
