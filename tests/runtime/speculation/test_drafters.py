"""Drafters and what stops them, by hand-made texts and counts."""

from __future__ import annotations

import numpy as np
import pytest
from fake_engine import FakeEngine

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.sampling import Sampling, TokenSampler
from edgeskip.runtime.speculation.acceptance_estimator import (
    CONFIDENCE_BINS,
    AcceptanceEstimator,
    confidence_bin,
    prior_by_confidence,
)
from edgeskip.runtime.speculation.draft_length import AdaptiveDraftLength, FixedDraftLength
from edgeskip.runtime.speculation.drafters import ModelDrafter, NgramDrafter, highest_probability
from edgeskip.runtime.speculation.policy import Speculation


def _text(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int64)


def test_ngrams_go_on_as_the_text_did_before():
    text = _text(1, 2, 3, 4, 5, 9, 1, 2, 3)
    assert NgramDrafter(4).propose(text, FixedDraftLength(3)).tokens == [4, 5, 9]
    assert NgramDrafter(4).propose(text, FixedDraftLength(1)).tokens == [4]


def test_the_longest_and_then_the_latest_ngram_counts():
    assert NgramDrafter(3).propose(_text(7, 1, 2, 8, 1, 2, 6, 7, 1, 2), FixedDraftLength(1)).tokens == [8]
    assert NgramDrafter(2).propose(_text(7, 1, 2, 8, 1, 2, 6, 7, 1, 2), FixedDraftLength(1)).tokens == [6]


def test_a_loop_is_continued_as_a_loop():
    assert NgramDrafter(4).propose(_text(0, 5, 6, 5, 6), FixedDraftLength(5)).tokens == [5, 6, 5, 6, 5]


def test_nothing_is_proposed_where_nothing_was_said_before():
    assert not len(NgramDrafter(4).propose(_text(1, 2, 3), FixedDraftLength(3)))
    assert not len(NgramDrafter(4).propose(_text(1), FixedDraftLength(3)))


def test_a_text_that_grows_is_read_once():
    drafter = NgramDrafter(4)
    text = [1, 2, 3, 1]
    drafter.propose(_text(*text), FixedDraftLength(1))
    for token, wanted in ((2, 3), (3, 1)):
        text.append(token)
        assert drafter.propose(_text(*text), FixedDraftLength(1)).tokens == [wanted]


def test_the_model_drafts_greedily_through_a_trimmed_head():
    ids = np.array([1, 4, 7, 8])
    fake = FakeEngine(agreement=0.0, draft_tokens=ids)
    proposal = ModelDrafter(fake, TokenSampler(Sampling())).propose(_text(2), FixedDraftLength(3))
    held = [2]
    for token in proposal.tokens:
        assert token == ids[fake.draft_logits(held)[ids].argmax()]
        held.append(token)
    assert fake.held == [2, *proposal.tokens[:2]]
    assert proposal.distributions == [None] * 3


def test_a_drawn_token_comes_with_its_distribution():
    ids = np.array([1, 4, 7, 8])
    fake = FakeEngine(agreement=0.0, draft_tokens=ids)
    proposal = ModelDrafter(fake, TokenSampler(Sampling(0.8, seed=1))).propose(_text(2), FixedDraftLength(1))
    row = np.exp(fake.draft_logits([2])[ids] / 0.8)
    wanted = np.zeros(fake.vocab_size)
    wanted[ids] = row / row.sum()
    np.testing.assert_allclose(proposal.distributions[0], wanted, rtol=1e-5)
    assert proposal.tokens[0] in ids


def test_highest_probability():
    assert highest_probability(np.log(np.array([1, 2, 5], np.float32))) == pytest.approx(5 / 8)


def test_a_fixed_depth_counts_and_looks_at_its_threshold():
    depth = FixedDraftLength(2, confidence=0.4)
    assert (depth.wants_more(), depth.keep(0.5, 5), depth.wants_more(), depth.keep(0.3, 3)) == (True, True, True, False)
    assert depth.keep(0.4, 4)
    assert not depth.wants_more()


def test_a_paying_depth_stops_where_a_row_costs_more_than_it_can_save():
    """By hand: 0.8 · 10 > 3; then 0.8² · 10 = 6.4 > 3, 0.8³ · 10 = 5.1 …, 0.8⁵ · 10 = 3.3, 0.8⁶ · 10 = 2.6."""
    depth = AdaptiveDraftLength(16, AcceptanceEstimator([0.8] * CONFIDENCE_BINS), plain_s=10, draft_s=0, row_s=3)
    kept = 0
    while depth.wants_more() and depth.keep(1.0, 9):
        kept += 1
    assert kept == 5


def test_reliability_moves_from_its_guess_to_what_happens():
    reliability = AcceptanceEstimator(prior_by_confidence(None))
    assert reliability.rate(confidence_bin(0.95)) == pytest.approx(0.95)
    for _ in range(300):
        reliability.update(9, accepted=False)
        reliability.update(1, accepted=True)
    assert reliability.rate(9) < 0.05
    assert reliability.rate(1) > 0.95


def test_a_trial_keeps_to_the_confidence_that_was_asked_for():
    """A trial goes against what is expected of the draft, not against what the user said."""
    for asked, kept in ((0.0, True), (0.9, False)):
        depth = AdaptiveDraftLength(
            16,
            AcceptanceEstimator([0.1] * CONFIDENCE_BINS),
            plain_s=10,
            draft_s=0,
            row_s=9,
            confidence=asked,
            trial=True,
        )
        assert depth.keep(0.5, 5) is kept


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"drafter": "magic"}, "drafter magic is unknown"),
        ({"num_speculations": 0}, "num_speculations must be 1 … 16 or auto, not 0"),
        ({"num_speculations": 99}, "not 99"),
        ({"confidence": 1.5}, "from 0 to 1, not 1.5"),
        ({"ngram": 1}, "at least 2 tokens, not 1"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(EdgeSkipError, match=message):
        Speculation(**wrong)
