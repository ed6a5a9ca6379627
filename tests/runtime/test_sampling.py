"""Sampling against transformers' logits processors, and draws against the distribution they leave."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.sampling import Sampling, TokenSampler, distribution

POLICIES = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.7),
    Sampling(temperature=1.3, top_k=5),
    Sampling(temperature=0.8, top_k=40, top_p=0.9),
    Sampling(temperature=1.0, top_p=0.95),
    Sampling(temperature=1.0, top_p=0.05),
    Sampling(temperature=2.0, min_p=0.1),
    Sampling(temperature=0.9, top_k=1000, top_p=0.99, min_p=0.02, repetition_penalty=1.3),
    Sampling(temperature=1.0, repetition_penalty=0.8, top_k=7),
    Sampling(temperature=1.0, top_k=10**6),
]


def transformers_distribution(
    logits: NDArray[np.float32], history: NDArray[np.int64], policy: Sampling
) -> NDArray[np.float64]:
    """Oracle: the processors in the order in which GenerationMixin._get_logits_processor lists them."""
    import torch
    from transformers.generation import logits_process as lp

    processors: list[object] = []
    if policy.repetition_penalty != 1:
        processors.append(lp.RepetitionPenaltyLogitsProcessor(policy.repetition_penalty))
    processors.append(lp.TemperatureLogitsWarper(policy.temperature))
    if policy.top_k:
        processors.append(lp.TopKLogitsWarper(policy.top_k))
    if policy.top_p < 1:
        processors.append(lp.TopPLogitsWarper(policy.top_p))
    if policy.min_p:
        processors.append(lp.MinPLogitsWarper(policy.min_p))
    scores = torch.tensor(logits[None])
    for processor in processors:
        scores = processor(torch.tensor(history[None]), scores)  # type: ignore[operator]
    return scores[0].double().softmax(-1).numpy()


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize(("vocab", "spread"), [(2000, 1.0), (2000, 5.0), (49152, 3.0)])
def test_the_distribution_is_transformers_own(policy: Sampling, vocab: int, spread: float) -> None:
    """Oracle: transformers' processors. The same tokens survive and have the same probabilities."""
    rng = np.random.default_rng(vocab)
    logits = rng.normal(0, spread, vocab).astype(np.float32)
    history = rng.integers(0, vocab, 50)
    mine = distribution(logits, history, policy)
    theirs = transformers_distribution(logits, history, policy)
    np.testing.assert_array_equal(mine > 0, theirs > 0)
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-9)
    assert math.isclose(mine.sum(), 1)


def test_top_k_keeps_ties() -> None:
    """Oracle: transformers keeps every token that equals the k-th."""
    logits = np.array([1, 3, 3, 2, 3], np.float32)
    history = np.zeros(0, np.int64)
    policy = Sampling(temperature=1.0, top_k=2)
    assert np.flatnonzero(distribution(logits, history, policy)).tolist() == [1, 2, 4]
    np.testing.assert_allclose(
        distribution(logits, history, policy), transformers_distribution(logits, history, policy), atol=1e-7
    )


def test_greedy_takes_the_likeliest_after_the_penalty() -> None:
    """By hand: 4/1.5 < 3, and a negative logit is multiplied."""
    logits = np.array([4, 3, -1], np.float32)
    none, seen = np.zeros(0, np.int64), np.array([0, 0, 2])
    assert TokenSampler(Sampling()).pick(logits, none) == 0
    assert TokenSampler(Sampling(repetition_penalty=1.5)).pick(logits, seen) == 1
    assert distribution(logits, seen, Sampling(repetition_penalty=1.5)).tolist() == [0, 1, 0]
    assert logits.tolist() == [4, 3, -1]


def test_draws_follow_the_distribution_and_the_seed() -> None:
    """Oracle: counts of 20,000 draws within 5 standard deviations of the distribution's expectation."""
    logits = np.random.default_rng(3).normal(0, 2, 50).astype(np.float32)
    history = np.array([1, 2, 3])
    policy = Sampling(temperature=0.9, top_k=12, top_p=0.95, repetition_penalty=1.2, seed=11)
    expected = distribution(logits, history, policy)
    first, second = TokenSampler(policy), TokenSampler(policy)
    draws = [first.pick(logits, history) for _ in range(20_000)]
    assert draws[:200] == [second.pick(logits, history) for _ in range(200)]
    counts = np.bincount(draws, minlength=50)
    deviation = np.sqrt(20_000 * expected * (1 - expected))
    assert (np.abs(counts - 20_000 * expected) <= 5 * deviation).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("policy", [Sampling(), Sampling(temperature=1.0, top_k=3)], ids=str)
def test_logits_that_are_not_numbers_are_an_error(bad: float, policy: Sampling) -> None:
    """By hand: a half-precision overflow must not become a token."""
    logits = np.array([1, 2, bad, 4], np.float32)
    with pytest.raises(EdgeSkipError, match="fp32"):
        TokenSampler(policy).pick(logits, np.zeros(0, np.int64))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"temperature": 1e300},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": 1e-320},
        {"repetition_penalty": 1e308},
        {"seed": -1},
    ],
)
def test_a_policy_outside_its_limits_is_refused(options: dict[str, float]) -> None:
    """By hand: the message names the option."""
    with pytest.raises(EdgeSkipError, match=f"{next(iter(options))} must be"):
        Sampling(**options)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1000.0])
@pytest.mark.parametrize("penalty", [0.01, 100.0])
def test_a_policy_at_its_limits_draws(temperature: float, penalty: float) -> None:
    """By hand: numpy warns of no overflow, and the weights are a distribution."""
    logits = np.array([60000, -60000, 0, 1], np.float32)  # as large as fp16 holds
    policy = Sampling(temperature=temperature, top_p=0.9, repetition_penalty=penalty)
    assert distribution(logits, np.array([0, 1]), policy).sum() == pytest.approx(1)


def test_a_temperature_below_float32_is_nearly_greedy() -> None:
    """By hand: the likeliest token has all the probability."""
    logits = np.array([1, 3, 2], np.float32)
    assert distribution(logits, np.zeros(0, np.int64), Sampling(temperature=1e-50)).tolist() == [0, 1, 0]
