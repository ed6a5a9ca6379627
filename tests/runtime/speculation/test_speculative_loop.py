"""The speculative loop over random acceptance patterns. Oracle: the plain loop over the same fake engine; counts."""

from __future__ import annotations

import numpy as np
import pytest
from fake_engine import FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from speculative_loop import plain, speculative, speculator_for

from edgeskip.runtime.sampling import Sampling
from edgeskip.runtime.speculation.policy import Speculation

engines = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "vocab_size": st.integers(3, 12),
        "context_length": st.integers(12, 48),
        "agreement": st.sampled_from([0.0, 0.3, 0.7, 0.95, 1.0]),
        "drafts": st.integers(1, 3),
        "sharpness": st.sampled_from([0.5, 3.0, 12.0]),
    }
)
policies = st.one_of(
    st.builds(
        Speculation,
        drafter=st.sampled_from([None, "model", "mixed"]),
        num_speculations=st.sampled_from(["auto", 1, 2, 3, 4, 8]),
        confidence=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
        exit_layer=st.sampled_from([None, None, 1]),
    ),
    st.builds(Speculation, drafter=st.just("ngram"), num_speculations=st.sampled_from(["auto", 1, 2, 3, 4, 8])),
)


@settings(max_examples=250, deadline=None)
@given(
    engine=engines,
    policy=policies,
    prompt=st.lists(st.integers(0, 2), min_size=1, max_size=10),
    max_tokens=st.integers(1, 40),
    ends=st.frozensets(st.integers(0, 2), max_size=1),
    penalty=st.sampled_from([1.0, 1.0, 1.3]),
    trim=st.booleans(),
    stop_after=st.sampled_from([None, None, 1, 2, 5]),
)
def test_greedy_is_plain_greedy_and_the_books_balance(
    engine, policy, prompt, max_tokens, ends, penalty, trim, stop_after
):
    draft_tokens = np.arange(0, engine["vocab_size"], 2) if trim else None
    fake = FakeEngine(**engine, draft_tokens=draft_tokens)
    sampling = Sampling(repetition_penalty=penalty)
    wanted = plain(fake, prompt, max_tokens=max_tokens, ends=ends, sampling=sampling)
    run = speculative(
        speculator_for(fake), fake, prompt, policy,
        max_tokens=max_tokens, ends=ends, sampling=sampling, stop_after=stop_after,
    )  # fmt: skip

    cut = run.reason == "interrupted"
    assert run.tokens == wanted.tokens[: len(run.tokens)]
    assert run.reason == (wanted.reason if not cut else "interrupted")
    assert len(run.tokens) == (stop_after if cut else len(wanted.tokens))
    assert run.history.generated.tolist() == run.tokens
    assert len(run.history.drafted) == len(run.tokens)
    # Wherever the loop was left, the engine holds the text but for its last token (and an end token nobody sees).
    assert fake.held == [*prompt, *run.tokens][: fake.length]
    assert fake.length == len(prompt) + len(run.tokens) - 1
    assert fake.drafted == 0

    stats = run.decoding.speculation(1.0, 10.0)
    assert stats.drafted == sum(run.decoding.recorder.offered_at)
    assert stats.accepted <= stats.drafted
    assert stats.rounds == sum(rounds for rounds, _, _ in stats.drafts.values())
    assert stats.drafted == sum(drafted for _, drafted, _ in stats.drafts.values())
    assert stats.accepted == sum(accepted for _, _, accepted in stats.drafts.values())
    assert all(0 <= share <= 1 for share in stats.acceptance_per_position)
    # Each round and each plain step gives one token besides the accepted ones; the prefill gives one. What a cut, an
    # end token or the limit drops comes from the last round alone.
    given_ = 1 + stats.rounds + stats.plain_steps + stats.accepted
    ended = run.reason != "length"
    assert len(run.tokens) <= given_
    assert given_ - len(run.tokens) <= (17 if ended else 0)
    assert sum(run.history.drafted) <= stats.accepted
    if policy.num_speculations != "auto":
        limit = policy.num_speculations
        assert all(n <= limit + 1 for kind, n in fake.calls if kind == "verify")


@settings(max_examples=60, deadline=None)
@given(engine=engines, gamma=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_a_perfect_draft_is_accepted_whole(engine, gamma, seed):
    """Hand count: with a draft that always agrees every round gives γ + 1 tokens."""
    fake = FakeEngine(**(engine | {"agreement": 1.0, "context_length": 200, "drafts": 1}))
    run = speculative(speculator_for(fake), fake, [0, 1], Speculation("model", gamma), max_tokens=1 + 5 * (gamma + 1))
    stats = run.decoding.speculation(1.0, 1.0)
    assert (stats.rounds, stats.plain_steps) == (5, 0)
    assert stats.accepted == stats.drafted == 5 * gamma
    assert stats.acceptance_per_position == (1.0,) * gamma
    assert sum(run.history.drafted) == 5 * gamma


def test_a_low_confidence_ends_the_draft_before_its_token():
    """No token is confident enough: every round verifies the one token that the draft has run, and nothing else; the
    last token has no room for a draft, so it takes a plain step."""
    fake = FakeEngine(sharpness=0.1)
    run = speculative(speculator_for(fake), fake, [0], Speculation("model", 4, confidence=0.9), max_tokens=6)
    stats = run.decoding.speculation(1.0, 1.0)
    assert (stats.rounds, stats.drafted, stats.plain_steps) == (4, 0, 1)
    assert [call for call in fake.calls if call[0] != "step"] == [("draft", 1), ("verify", 0)] * 4


def test_an_engine_without_a_draft_speculates_by_ngrams():
    """A text in a loop: after its first period every n-gram stands before, so drafts are accepted."""

    class Loop(FakeEngine):
        def logits(self, prefix):
            row = np.zeros(self.vocab_size, np.float32)
            row[(prefix[-1] + 1) % 5] = 9.0
            return row

    fake = Loop(context_length=200)
    run = speculative(speculator_for(fake, drafts=False), fake, [0], Speculation(num_speculations=4), max_tokens=60)
    stats = run.decoding.speculation(1.0, 1.0)
    assert run.tokens == [(i + 1) % 5 for i in range(60)]
    assert stats.acceptance_rate == 1.0
    assert stats.plain_steps == pytest.approx(6, abs=2)
    assert {kind for kind, _ in fake.calls} == {"step"}


def test_speculation_stops_before_the_context_is_full():
    """The fake refuses tokens beyond its context; the plain loop fills it, so must this one."""
    fake = FakeEngine(context_length=16, agreement=1.0)
    run = speculative(speculator_for(fake), fake, [0], Speculation("model", 8), max_tokens=100)
    assert run.reason == "length"
    assert fake.length == 16
    assert run.tokens == plain(fake, [0], max_tokens=100).tokens
