"""Costs as measured on a clock that only the fake engine's work moves. Oracle: that clock's own prices."""

from __future__ import annotations

import types

import pytest
from fake_engine import FakeClock, FakeEngine

from edgeskip.runtime.speculation import latency_model as costs
from edgeskip.runtime.speculation.latency_model import LatencyCurve, measure_latencies


@pytest.fixture
def clock(monkeypatch) -> FakeClock:
    clock = FakeClock(plain_s=0.02, row_s=0.003, draft_s=0.004)
    monkeypatch.setattr(costs, "time", types.SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def test_every_price_is_found(clock):
    fake = FakeEngine(drafts=2, clock=clock)
    found = measure_latencies(fake, fake)
    assert found.plain == pytest.approx(0.02)
    assert found.step.at(3) == pytest.approx(0.026)
    assert found.step.at(20) == pytest.approx(0.02 + 19 * 0.003)
    assert found.draft == pytest.approx((0.004, 0.008))
    assert found.verify is not None
    assert found.verify.at(5) == pytest.approx(0.032)
    assert fake.length == 0


def test_a_slow_model_is_measured_fewer_times(clock):
    clock.plain_s = 1.0
    fake = FakeEngine(clock=clock)
    measure_latencies(fake, None)
    assert clock.now < 2.2 * 5 * 1.1  # two rounds of four figures, and the text before them


def test_a_short_context_is_enough(clock):
    fake = FakeEngine(context_length=4, clock=clock)
    assert measure_latencies(fake, fake).plain == pytest.approx(0.02)


def test_a_curve_is_straight_between_its_points_and_beyond():
    curve = LatencyCurve((1, 2, 4), (10.0, 12.0, 20.0))
    assert [curve.at(n) for n in (1, 2, 3, 4, 6)] == [10, 12, 16, 20, 28]
    assert [curve.slope(n) for n in (1, 2, 3, 9)] == [2, 2, 4, 4]
    assert LatencyCurve((1,), (5.0,)).at(9) == 5
    assert LatencyCurve((1, 2), (5.0, 4.0)).slope(2) == 0
