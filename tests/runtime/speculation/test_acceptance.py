"""The acceptance rule keeps the target distribution. Oracle: chi-square tests against exactly computed distributions;
a rule that is broken on purpose must fail the same tests."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from chi_square import p_value
from fake_engine import FakeEngine
from speculative_loop import speculative, speculator_for

from edgeskip.runtime.sampling import Sampling, TokenSampler, distribution
from edgeskip.runtime.speculation import acceptance
from edgeskip.runtime.speculation import loop as rounds
from edgeskip.runtime.speculation.acceptance import AcceptanceResult, accept
from edgeskip.runtime.speculation.drafters import Proposal
from edgeskip.runtime.speculation.policy import Speculation

DRAWS = 20_000
VOCABULARY = 7
POLICIES = {
    "whole": Sampling(1.0, seed=1),
    "cold": Sampling(0.6, seed=2),
    "top-k": Sampling(1.3, top_k=3, seed=3),
    "top-p": Sampling(1.0, top_p=0.7, seed=4),
    "min-p": Sampling(0.9, min_p=0.2, seed=5),
    "penalty": Sampling(1.0, repetition_penalty=1.7, top_p=0.95, seed=6),
}
HISTORY = np.array([3, 1, 4], np.int64)


def _logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(VOCABULARY).astype(np.float32) * 1.5


def _first_tokens(policy: Sampling, *, certain: bool, rule=accept) -> tuple[np.ndarray, np.ndarray]:
    """How often each token came first after one drafted token, and the distribution it should have."""
    target, draft, after = _logits(10), _logits(11), _logits(12)
    sampler = TokenSampler(policy)
    q = distribution(draft, HISTORY, policy)
    counts = np.zeros(VOCABULARY, np.int64)
    for _ in range(DRAWS):
        token = int(q.argmax()) if certain else sampler.draw(q)
        proposal = Proposal([token], [None if certain else q.copy()], [0])
        outcome = rule(np.stack([target, after]), HISTORY, proposal, sampler)
        counts[token if outcome.accepted else outcome.token] += 1
    return counts, distribution(target, HISTORY, policy)


@pytest.mark.parametrize("certain", [False, True], ids=["drawn", "ngram"])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_the_first_token_follows_the_target(policy, certain):
    counts, target = _first_tokens(policy, certain=certain)
    assert p_value(counts, target) > 0.01


def _always(logits, history, proposal, sampler):
    """Broken: a drafted token always stands."""
    return AcceptanceResult(1, sampler.pick(logits[1], history))


def _resample_from_p(logits, history, proposal, sampler):
    """Broken: after a rejection it draws from p, not from the residual of p and q."""
    p = sampler.distribution(logits[0], history)
    q, token = proposal.distributions[0], proposal.tokens[0]
    if sampler.random() * q[token] < p[token]:
        return AcceptanceResult(1, 0)
    return AcceptanceResult(0, sampler.draw(p))


def _by_untruncated(logits, history, proposal, sampler):
    """Broken: p is the model's whole distribution, though sampling truncates it."""
    whole = TokenSampler(Sampling(sampler.policy.temperature, seed=9))
    whole._random = sampler._random
    return accept(logits, history, proposal, whole)


@pytest.mark.parametrize("rule", [_always, _resample_from_p, _by_untruncated])
def test_a_broken_rule_fails_the_same_test(rule):
    counts, target = _first_tokens(POLICIES["top-k"], certain=False, rule=rule)
    assert p_value(counts, target) < 0.001


def test_greedy_keeps_the_longest_agreeing_prefix():
    """By hand: likeliest tokens 2, 5, 1, 0; drafted 2, 5, 3."""
    rows = np.full((4, VOCABULARY), -1.0, np.float32)
    for row, token in enumerate((2, 5, 1, 0)):
        rows[row, token] = 1
    sampler = TokenSampler(Sampling())
    drafted = Proposal([2, 5, 3], [None] * 3, [0] * 3)
    assert accept(rows, HISTORY, drafted, sampler) == AcceptanceResult(2, 1)
    assert accept(rows[:1], HISTORY, Proposal(), sampler) == AcceptanceResult(0, 2)
    assert accept(rows, HISTORY, Proposal([2, 5, 1], [None] * 3, [0] * 3), sampler) == AcceptanceResult(3, 0)


def test_the_rows_must_fit_the_proposal():
    with pytest.raises(ValueError, match="2 drafted tokens need 3 rows"):
        accept(
            np.zeros((2, VOCABULARY), np.float32),
            HISTORY,
            Proposal([1, 2], [None] * 2, [0] * 2),
            TokenSampler(Sampling()),
        )


def _texts(policy: Sampling, speculation: Speculation, count: int, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """How often each text of three tokens came out of the loop, and its probability, multiplied out."""
    size, prompt = 4, [1, 2]
    fake = FakeEngine(seed=seed, vocab_size=size, agreement=0.4, sharpness=1.2, draft_tokens=np.array([0, 1, 3]))
    target = np.zeros((size,) * 3)
    for text in itertools.product(range(size), repeat=3):
        target[text] = 1.0
        for i, token in enumerate(text):
            history = [*prompt, *text[:i]]
            target[text] *= distribution(fake.logits(history), np.array(history), policy)[token]
    counts = np.zeros((size,) * 3, np.int64)
    speculator = speculator_for(fake)
    for i in range(count):
        sampling = Sampling(**{**policy.__dict__, "seed": i})
        counts[tuple(speculative(speculator, fake, prompt, speculation, max_tokens=3, sampling=sampling).tokens)] += 1
    return counts, target


@pytest.mark.parametrize(
    "speculation",
    [
        Speculation("model", 2),
        Speculation("model", 4, confidence=0.5),
        Speculation("mixed", 3),
        Speculation(),
    ],
    ids=["fixed", "confidence", "mixed", "auto"],
)
def test_whole_texts_follow_the_target(speculation):
    """The loop with everything that stops a draft early: what is drawn must not depend on what was drafted."""
    counts, target = _texts(Sampling(1.0, top_p=0.9, repetition_penalty=1.2), speculation, 4000)
    assert p_value(counts, target) > 0.01


def test_a_loop_that_accepts_too_much_fails_the_same_test(monkeypatch):
    def generous(logits, history, proposal, sampler):
        outcome = acceptance.accept(logits, history, proposal, sampler)
        return AcceptanceResult(1, outcome.token) if len(proposal) and not outcome.accepted else outcome

    monkeypatch.setattr(rounds, "accept", generous)
    counts, target = _texts(Sampling(1.0), Speculation("model", 2), 2000)
    assert p_value(counts, target) < 0.001
