"""γ auto on a clock that only the fake engine's work moves. Oracle: the same clock over the plain loop."""

from __future__ import annotations

import types

import pytest
from fake_engine import FakeClock, FakeEngine
from speculative_loop import plain, speculative, speculator_for

from edgeskip.runtime.speculation import latency_model as costs
from edgeskip.runtime.speculation import loop as rounds
from edgeskip.runtime.speculation.latency_model import LatencyCurve, LatencyModel
from edgeskip.runtime.speculation.policy import Speculation


@pytest.fixture
def clock(monkeypatch) -> FakeClock:
    clock = FakeClock()
    for module in (costs, rounds):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def _speedup(clock: FakeClock, fake: FakeEngine, policy: Speculation, texts: int = 6, speculator=None) -> float:
    """Time of the plain loop over that of the speculative one, prefills and the first measurement left out."""
    speculator = speculator or speculator_for(fake)
    speculator.latencies()
    seconds = {"plain": 0.0, "speculative": 0.0}
    for text in range(texts):
        for kind in seconds:
            begin = clock.now
            if kind == "plain":
                plain(fake, [text, 1], max_tokens=128)
            else:
                speculative(speculator, fake, [text, 1], policy, max_tokens=128)
            seconds[kind] += clock.now - begin - clock.row(2)
    return seconds["plain"] / seconds["speculative"]


@pytest.mark.parametrize("agreement", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("draft_s", [0.001, 0.003, 0.008])
def test_auto_never_loses_three_percent(clock, agreement, draft_s):
    """A draft that hardly ever agrees, at any price: what trials cost stays within the bound."""
    clock.draft_s = draft_s
    fake = FakeEngine(agreement=agreement, context_length=400, vocab_size=40, clock=clock)
    assert _speedup(clock, fake, Speculation()) > 0.97


def test_auto_does_not_lose_with_a_draft_that_is_overrated(clock):
    """Calibrated on other text: the artifact says 90 %, the text gives 5 %."""
    clock.draft_s = 0.004
    fake = FakeEngine(agreement=0.9, context_length=400, vocab_size=40, clock=clock)
    speculator = speculator_for(fake)
    fake.agreement = 0.05
    assert _speedup(clock, fake, Speculation("model"), speculator=speculator) > 0.97


@pytest.mark.parametrize("agreement", [0.8, 0.95])
def test_auto_comes_close_to_the_best_fixed_number(clock, agreement):
    fake = FakeEngine(agreement=agreement, context_length=400, vocab_size=40, sharpness=8.0, clock=clock)
    fixed = max(_speedup(clock, fake, Speculation("model", gamma), texts=3) for gamma in (1, 2, 4, 8))
    assert fixed > 1.3
    assert _speedup(clock, fake, Speculation("model"), texts=3) > 0.9 * fixed


def test_auto_comes_back(clock):
    """The draft is useless at first and good later: auto tries again and then keeps it."""
    fake = FakeEngine(agreement=0.02, context_length=400, vocab_size=40, sharpness=8.0, clock=clock)
    speculator = speculator_for(fake)
    assert _speedup(clock, fake, Speculation("model"), speculator=speculator) > 0.97
    fake.agreement = 0.95
    _speedup(clock, fake, Speculation("model"), speculator=speculator, texts=3)
    assert _speedup(clock, fake, Speculation("model"), speculator=speculator, texts=3) > 1.2


def test_auto_takes_the_exit_that_pays(clock):
    """Two exits that agree equally, one three times dearer: the cheap one drafts most."""

    fake = FakeEngine(agreement=0.9, drafts=2, context_length=400, vocab_size=40, sharpness=8.0, clock=clock)
    speculator = speculator_for(fake)
    run = speculative(speculator, fake, [1], Speculation(), max_tokens=300)
    drafts = run.decoding.speculation(1.0, 1.0).drafts
    assert drafts["early-exit 1"][1] > 2 * drafts.get("early-exit 2", (0, 0, 0))[1]


def test_a_fixed_number_never_falls_back(clock):
    fake = FakeEngine(agreement=0.0, context_length=400, vocab_size=40, clock=clock)
    run = speculative(speculator_for(fake), fake, [1], Speculation("model", 3), max_tokens=50)
    stats = run.decoding.speculation(1.0, 1.0)
    assert stats.plain_steps <= 1  # where a single token is left
    assert set(fake.calls) <= {("step", 1), ("draft", 1), ("verify", 1)}


def test_a_plain_step_that_was_measured_in_a_busy_moment_is_corrected(clock):
    """The measurement says 20 ms, a plain step takes 10: rounds seem to gain, and lose."""
    clock.draft_s = 0.008
    fake = FakeEngine(agreement=0.6, context_length=400, vocab_size=40, sharpness=8.0, clock=clock)
    speculator = speculator_for(fake)
    speculator.latencies()
    rows = LatencyCurve((1, 2, 4, 8), (0.020, 0.012, 0.016, 0.024))
    speculator._costs = LatencyModel(rows, (0.008,), rows)
    assert _speedup(clock, fake, Speculation("model"), speculator=speculator, texts=2) > 0.97
