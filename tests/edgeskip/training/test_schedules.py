"""The recipe's numbers. Oracle: the paper's equations, worked out by hand."""

from __future__ import annotations

import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.training.config import ExitPolicy, LayerSkipConfig, LowRankConfig, OptimizerConfig
from edgeskip.training.schedules import dropout_rates, exit_weights, gradual, rotational


def test_dropout_doubles_over_the_depth() -> None:
    """exp(l·ln2/4) − 1 = 2^(l/4) − 1: 0, 0.1892, 0.4142, 0.6818, 1, times p_max."""
    assert dropout_rates(5, 0.2) == pytest.approx((0.0, 0.037841, 0.082843, 0.136359, 0.2), abs=1e-6)
    assert dropout_rates(1, 0.2) == (0.0,)
    assert dropout_rates(2, 0.5) == pytest.approx((0.0, 0.5))


def test_rotation_meets_every_block_once_a_turn() -> None:
    assert [rotational(step, 7, 3) for step in range(4)] == [(0, 3), (1, 4), (2, 5), (0, 3)]
    assert rotational(0, 6, 8) == (0,)
    assert rotational(6, 6, 8) == (), "block 5 is the last, and there is no seventh"


def test_gradual_adds_a_block_every_twelfth_of_half_the_run() -> None:
    """L = 6, 120 steps: one more exit every 120 / 12 = 10 steps, from the last towards the first."""
    assert gradual(0, 6, 120) == ()
    assert gradual(9, 6, 120) == ()
    assert gradual(10, 6, 120) == (4,)
    assert gradual(29, 6, 120) == (3, 4)
    assert gradual(49, 6, 120) == (1, 2, 3, 4)
    assert gradual(50, 6, 120) == (0, 1, 2, 3, 4) == gradual(119, 6, 120)


def test_the_papers_weights() -> None:
    """L = 5, e_scale = 0.5: e(1) = 0.5·1, e(3) = 0.5·6, last = 4 + 0.5·(1 + 2 + 3) = 7; the sum is 10.5."""
    assert exit_weights((1, 3), 5, 0.5) == pytest.approx({1: 0.5 / 10.5, 3: 3 / 10.5, 4: 7 / 10.5})
    assert exit_weights((), 5, 0.5) == {4: 1.0}
    assert exit_weights((0,), 5, 1.0) == pytest.approx({0: 0.0, 4: 1.0}), "the sum up to block 0 is 0"


def test_equal_weights() -> None:
    """e_scale 0.5 shared by two exits, 1 for the last: 0.25, 0.25 and 1, over 1.5."""
    assert exit_weights((1, 3), 5, 0.5, "equal") == pytest.approx({1: 1 / 6, 3: 1 / 6, 4: 2 / 3})
    assert exit_weights((), 5, 0.5, "equal") == {4: 1.0}


@pytest.mark.parametrize(
    ("decay", "rates"),
    [
        ("cosine", [0.1, 0.2, 0.2, 0.15, 0.05]),
        ("linear", [0.1, 0.2, 0.2, 0.2 * 2 / 3, 0.2 / 3]),
        ("constant", [0.1, 0.2, 0.2, 0.2, 0.2]),
    ],
)
def test_the_learning_rate_rises_and_falls(decay: str, rates: list[float]) -> None:
    """Two steps up to 0.2, three down: (1 + cos(0, π/3, 2π/3)) / 2 = 1, 3/4, 1/4; linear 1, 2/3, 1/3."""
    policy = OptimizerConfig(0.2, warmup=2, decay=decay)  # type: ignore[arg-type]
    assert [policy.rate(step, 5) for step in range(5)] == pytest.approx(rates)


def test_without_a_warm_up() -> None:
    assert OptimizerConfig(0.2, warmup=0, decay="linear").rate(0, 4) == 0.2


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: OptimizerConfig(0.0), "--learning-rate"),
        (lambda: OptimizerConfig(NAN), "--learning-rate"),
        (lambda: OptimizerConfig(INFINITE), "--learning-rate"),
        (lambda: OptimizerConfig(0.1, batch_size=0), "--batch-size"),
        (lambda: OptimizerConfig(0.1, epochs=INFINITE), "--epochs"),
        (lambda: OptimizerConfig(0.1, steps=0), "--steps"),
        (lambda: OptimizerConfig(0.1, warmup=-1), "--warmup"),
        (lambda: OptimizerConfig(0.1, save_every=0), "--save-every"),
        (lambda: OptimizerConfig(0.1, decay="steep"), "--decay steep"),  # type: ignore[arg-type]
        (lambda: LowRankConfig(0), "--lora"),
        (lambda: LowRankConfig(4, NAN), "--lora-scaling"),
        (lambda: LowRankConfig(4, 2.0, 0, 2), "--lora-early"),
        (lambda: LowRankConfig(4, 2.0, 8), "--exits"),
        (lambda: LayerSkipConfig(p_max=1.0), "--p-max"),
        (lambda: LayerSkipConfig(p_max=NAN), "--p-max"),
        (lambda: LayerSkipConfig(e_scale=-1.0), "--e-scale"),
        (lambda: LayerSkipConfig(e_scale=NAN), "--e-scale"),
        (lambda: LayerSkipConfig(curriculum="random"), "--curriculum random"),  # type: ignore[arg-type]
        (lambda: LayerSkipConfig(weighting="none"), "--exit-weights none"),  # type: ignore[arg-type]
        (lambda: LayerSkipConfig(interval=0), "--interval"),
        (lambda: ExitPolicy(()), "--exits"),
        (lambda: ExitPolicy((4,), "tower"), "--adapter tower"),  # type: ignore[arg-type]
        (lambda: ExitPolicy((4,), vocabulary=0), "--draft-vocab"),
    ],
)
def test_settings_that_cannot_be(make: object, told: str) -> None:
    with pytest.raises(EdgeSkipError, match=told):
        make()  # type: ignore[operator]


def test_a_rank_of_its_own_before_the_exit() -> None:
    lora = LowRankConfig(4, early_rank=16, early_blocks=2)
    assert [lora.rank_of(block) for block in range(4)] == [16, 16, 4, 4]
    assert LowRankConfig(4).rank_of(0) == 4
