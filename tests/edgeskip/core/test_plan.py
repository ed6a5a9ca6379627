"""Plans as frozen data. Oracle: the invariants their docstrings state."""

import dataclasses

import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan, Skip
from edgeskip.core.sublayers import Sublayer, sublayers_of

ATTN_0, FFN_0, ATTN_1, FFN_1 = sublayers_of(2)


def test_labels_and_parts() -> None:
    plan = Plan(2, (Skip(FFN_0), Skip(ATTN_1, 1.5)), "scale")
    assert plan.label == "lossy-skip"
    assert plan.skipped == {FFN_0, ATTN_1}
    assert plan.kept == (ATTN_0, FFN_1)
    assert plan.skip_for(ATTN_1) == Skip(ATTN_1, 1.5)
    assert plan.skip_for(FFN_1) is None


def test_no_skips_is_dense() -> None:
    plan = Plan(2)
    assert plan.label == "dense"
    assert plan.kept == sublayers_of(2)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Plan(2).num_blocks = 3  # type: ignore[misc]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scale_must_be_positive(scale: float) -> None:
    """RMSNorm(c·x) = RMSNorm(x) needs c > 0."""
    with pytest.raises(EdgeSkipError, match="not positive"):
        Skip(ATTN_0, scale)


@pytest.mark.parametrize("order", [(ATTN_1, FFN_0), (FFN_0, FFN_0)])
def test_order_and_duplicates(order: tuple[Sublayer, ...]) -> None:
    with pytest.raises(EdgeSkipError, match="execution order"):
        Plan(2, tuple(map(Skip, order)))


def test_every_sublayer_skipped() -> None:
    with pytest.raises(EdgeSkipError, match="keep at least one"):
        Plan(2, tuple(map(Skip, sublayers_of(2))))
