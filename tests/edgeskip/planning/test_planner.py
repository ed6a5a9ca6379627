"""Choosing and resolving plans. Oracle: AdaSkip's equations worked by hand on small profiles."""

import itertools

import numpy as np
import pytest
from profiles import make_profile, make_vectors

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.sublayers import sublayers_of
from edgeskip.planning.planner import choose, num_skipped, resolve
from edgeskip.profiles.schema import PlanRecord


@pytest.mark.parametrize(
    ("alpha", "num_blocks", "expected"),
    [(1.0, 30, 0), (1.2, 30, 10), (1.25, 32, 13), (1.2, 32, 11), (2.0, 4, 4), (1.5, 2, 1), (8 / 7, 2, 1)],
)
def test_alpha(alpha: float, num_blocks: int, expected: int) -> None:
    """m = M − M/α: 30 − 25 = 5 blocks = 10 sublayers; 32 − 25.6 = 6.4 → 12.8 → 13; 2 − 4/3 → 1.33 → 1; a half → up."""
    assert num_skipped(alpha, num_blocks) == expected


@pytest.mark.parametrize("alpha", [0.99, 0.0, -2.0, float("nan"), float("inf")])
def test_alpha_below_one(alpha: float) -> None:
    with pytest.raises(EdgeSkipError, match="at least 1"):
        choose(make_profile(), alpha=alpha)


def test_adaskip_takes_the_most_similar() -> None:
    plan = choose(make_profile(), alpha=4 / 2.5)  # m = 4 − 2.5 → 3 sublayers
    assert plan.skip == ["ffn.1", "attn.2", "attn.3"]
    assert plan.beta == 0.95
    assert (plan.method, plan.compensation, plan.alpha, plan.seed) == ("adaskip", "affine", 1.6, None)


def test_ties_go_to_the_earlier_sublayer() -> None:
    assert choose(make_profile(), skip_sublayers=2).skip == ["ffn.1", "attn.2"]


@pytest.mark.parametrize(
    ("method", "count", "expected"),
    [
        ("least-similar", 3, ["attn.0", "ffn.0", "ffn.3"]),
        ("early-exit", 2, ["attn.3", "ffn.3"]),
        ("early-exit", 3, ["ffn.2", "attn.3", "ffn.3"]),
        ("skipdecode", 3, ["attn.1", "ffn.1", "attn.2"]),
        ("unified", 2, ["attn.2", "ffn.2"]),
        ("unified", 3, ["attn.1", "ffn.1", "attn.2"]),
        ("unified", 4, ["attn.1", "ffn.1", "attn.2", "ffn.2"]),
    ],
)
def test_baselines(method: str, count: int, expected: list[str]) -> None:
    plan = choose(make_profile(), method=method, skip_sublayers=count)  # type: ignore[arg-type]
    assert plan.skip == expected
    assert plan.method == method


def test_unified_is_periodic() -> None:
    """30 blocks, 8 skipped blocks: the 28 middle blocks in 8 periods of 3.5, one skipped in each."""
    plan = choose(make_profile((0.9,) * 60), method="unified", skip_sublayers=16)
    blocks = [int(name[5:]) for name in plan.skip if name.startswith("attn.")]
    assert len(blocks) == 8
    assert {b - a for a, b in itertools.pairwise(blocks)} <= {3, 4}
    assert 0 not in blocks
    assert 29 not in blocks


def test_random_follows_its_seed() -> None:
    profile = make_profile((0.9,) * 60)
    plans = [choose(profile, method="random", skip_sublayers=8, seed=seed) for seed in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert plans[0].skip != plans[2].skip
    assert len(set(plans[0].skip)) == 8
    assert plans[0].seed == 1


def test_zero_is_dense() -> None:
    plan = choose(make_profile(), skip_sublayers=0)
    assert plan == PlanRecord(method="dense", compensation="none", skip=[])
    assert resolve(make_profile(plan=plan), None).label == "dense"


def test_names() -> None:
    plan = choose(make_profile(), skip=["ffn.3", "attn.1", "ffn.3"], compensation="scale")
    assert plan == PlanRecord(method="explicit", compensation="scale", skip=["attn.1", "ffn.3"], beta=0.40)


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"alpha": 1.2, "skip_sublayers": 2},
        {"skip": ["attn.9"]},
        {"skip": [str(s) for s in sublayers_of(4)]},
        {"skip_sublayers": 8},
        {"skip_sublayers": -1},
        {"alpha": 1e9},
        {"skip_sublayers": 7, "method": "skipdecode"},
        {"skip_sublayers": 5, "method": "unified"},
        {"skip_sublayers": 5, "method": "explicit"},
    ],
)
def test_impossible_requests(request_: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(EdgeSkipError):
        choose(make_profile(), **request_)


def test_resolve_each_compensation() -> None:
    """scale = the profile's; affine: b = mean_out − s·mean_in in float64."""
    vectors = make_vectors()
    mean_in, mean_out = vectors.mean_in["prefill"], vectors.mean_out["prefill"]
    for compensation in ("none", "scale", "affine"):
        record = PlanRecord(method="explicit", compensation=compensation, skip=["ffn.3", "attn.1"])
        plan = resolve(make_profile(plan=record), vectors if compensation == "affine" else None)
        assert [str(s.sublayer) for s in plan.skips] == ["attn.1", "ffn.3"]
        assert plan.compensation == compensation
        expected = {"none": [1.0, 1.0], "scale": [1.9, 1.4], "affine": [1.4, 0.9]}[compensation]
        assert [s.scale for s in plan.skips] == pytest.approx(expected, rel=1e-12)
        for skip, row in zip(plan.skips, (2, 7), strict=True):
            if compensation != "affine":
                assert skip.bias is None
            else:
                assert skip.bias is not None
                wide = mean_out[row].astype(np.float64) - skip.scale * mean_in[row].astype(np.float64)
                assert skip.bias.dtype == np.float32
                np.testing.assert_array_equal(skip.bias, wide.astype(np.float32))


def test_bias_share_shrinks_the_bias() -> None:
    record = PlanRecord(method="explicit", compensation="affine", skip=["attn.1"])
    profile = make_profile(plan=record)
    whole = resolve(profile, make_vectors()).skips[0]
    sublayers = list(profile.sublayers)
    prefill = sublayers[2].prefill.model_copy(update={"bias_share": 0.25})
    sublayers[2] = sublayers[2].model_copy(update={"prefill": prefill})
    shrunk = resolve(profile.model_copy(update={"sublayers": sublayers}), make_vectors()).skips[0]
    assert shrunk.scale == whole.scale
    assert shrunk.bias is not None
    assert whole.bias is not None
    np.testing.assert_allclose(shrunk.bias, 0.25 * whole.bias, rtol=1e-6)


def test_affine_needs_the_vectors() -> None:
    record = PlanRecord(method="explicit", compensation="affine", skip=["attn.1"])
    with pytest.raises(EdgeSkipError, match="vectors"):
        resolve(make_profile(plan=record), None)


def test_no_plan_is_dense() -> None:
    assert resolve(make_profile(), None).label == "dense"
