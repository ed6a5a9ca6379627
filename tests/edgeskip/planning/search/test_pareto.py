"""Which plan a budget buys. Oracle: fronts small enough to see the answer."""

import io
from pathlib import Path

import pytest

from edgeskip.cli.views.pareto import front_table, plot_front
from edgeskip.cli.views.similarity_plot import plot_similarity
from edgeskip.core import terminal
from edgeskip.core.errors import EdgeSkipError
from edgeskip.planning.search.pareto import Budget, pareto_points, parse_share, pick_point
from edgeskip.profiles.schema import ParetoFront, ParetoPoint, read_profile


def point(skips: int, kl: float, decode: float, ratio: float | None = None, error: float = 0.0) -> ParetoPoint:
    return ParetoPoint(
        skip=[f"attn.{n}" for n in range(skips)], kl=kl, perplexity_ratio=ratio or 1 + kl, perplexity_error=error,
        top1_agreement=0.9,
        prefill_speedup=1.1, decode_speedup=decode,
    )  # fmt: skip


def front(*points: ParetoPoint) -> ParetoFront:
    return ParetoFront(
        points=list(points), compensation="affine", objective="kl", corpus=[], tokens=8, perplexity=20.0, device="here",
        context=0, settings={}, created="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


FRONT = front(point(1, 0.01, 1.01), point(2, 0.03, 1.10), point(3, 0.04, 1.08), point(4, 0.2, 1.3))


@pytest.mark.parametrize(
    ("budget", "number"),
    [
        (Budget(max_kl=0.05), 1),  # the fastest, not the one with most skips
        (Budget(max_kl=0.01), 0),
        (Budget(max_ppl_increase=0.5), 3),
        (Budget(min_speedup=1.05), 1),
        (Budget(skip_sublayers=3), 2),
        (Budget(point=4), 3),
    ],
)
def test_what_a_budget_buys(budget: Budget, number: int) -> None:
    assert pick_point(FRONT, budget) == number


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        (Budget(max_kl=0.001), "the least is 0.01"),
        (Budget(max_ppl_increase=0.001), "the least is 1.0%"),
        (Budget(min_speedup=2), r"1\.30 at most"),
        (Budget(skip_sublayers=9), "4 at most"),
        (Budget(point=5), "1 … 4"),
    ],
)
def test_what_the_front_does_not_have(budget: Budget, says: str) -> None:
    with pytest.raises(EdgeSkipError, match=says):
        pick_point(FRONT, budget)


@pytest.mark.parametrize(
    "values",
    [{}, {"max_kl": 0.1, "point": 1}, {"max_kl": 0.0}, {"min_speedup": 0.9}, {"max_ppl_increase": 0.0},
     {"skip_sublayers": 0}, {"max_kl": float("nan")}, {"min_speedup": float("inf")}],
)  # fmt: skip
def test_budgets_that_are_none(values: dict[str, float]) -> None:
    with pytest.raises(EdgeSkipError):
        Budget(**values)  # type: ignore[arg-type]


def test_a_standard_error_is_to_spare() -> None:
    """10 % more that may as well be 12 is no 10 %."""
    found = front(point(1, 0.1, 1.1, 1.07, 0.02), point(2, 0.2, 1.2, 1.09, 0.02))
    assert pick_point(found, Budget(max_ppl_increase=0.1)) == 0
    with pytest.raises(EdgeSkipError, match=r"the least is 9\.0%"):
        pick_point(found, Budget(max_ppl_increase=0.08))


def test_shares() -> None:
    assert parse_share("10%") == pytest.approx(0.1)
    assert parse_share("0.1") == pytest.approx(0.1)
    with pytest.raises(EdgeSkipError, match="write 10%"):
        parse_share("ten")


def test_what_another_plan_beats_goes() -> None:
    """Worse and slower than another goes, unless it is the best with as many skips."""
    better, beaten = point(3, 0.05, 1.2), point(3, 0.06, 1.1)
    best_of_two = point(2, 0.055, 1.15)
    assert pareto_points([beaten, better, best_of_two], "kl") == [better, best_of_two]


@pytest.mark.parametrize(
    ("budget", "found"),
    [
        (Budget(min_speedup=1.15), point(1, 0.1, 1.1463)),  # 1.15×
        (Budget(max_kl=0.0123), point(1, 0.01234, 1.1)),  # 0.0123
        (Budget(max_ppl_increase=parse_share("10%")), point(1, 0.1, 1.1, 1.0804, 0.0203)),  # +8.0% ± 2.0%
        (Budget(max_ppl_increase=parse_share("0.1")), point(1, 0.1, 1.1, 1.0804, 0.0203)),
    ],
)
def test_a_point_counts_as_it_is_printed(budget: Budget, found: ParetoPoint) -> None:
    """Oracle: the table. What prints as enough is enough, what prints as more is not."""
    assert pick_point(front(found), budget) == 0
    worse = found.model_copy(
        update={"decode_speedup": 1.1449, "kl": found.kl + 1e-4, "perplexity_ratio": found.perplexity_ratio + 1e-3}
    )
    with pytest.raises(EdgeSkipError, match="no point of the front"):
        pick_point(front(worse), budget)


def test_limits_of_a_search_narrow_a_front() -> None:
    assert pick_point(FRONT, Budget(max_kl=1), allowed=[0, 2]) == 2
    with pytest.raises(EdgeSkipError, match="--point 2 is beyond"):
        pick_point(FRONT, Budget(point=2), allowed=[0])
    with pytest.raises(EdgeSkipError, match="allow more"):
        pick_point(FRONT, Budget(max_kl=1), allowed=[])


def test_a_devices_name_is_text_in_the_table() -> None:
    """By hand: rich's markup would end in an error at a tag that closes nothing."""
    text = io.StringIO()
    named = FRONT.model_copy(update={"device": "a [/red] phone"})
    terminal.Console(file=text, width=100).print(front_table(named, chosen=1))
    assert "a [/red] phone" in text.getvalue()
    assert "bold" not in text.getvalue()


def test_names_are_text_in_figures(profile_path: Path, tmp_path: Path) -> None:
    """By hand: what stands between two dollars matplotlib reads as mathematics, and this is none."""
    name = r"a $\frac$ name"
    profile = read_profile(profile_path)
    model = profile.model.model_copy(update={"name": name})
    profile = profile.model_copy(update={"model": model, "front": FRONT.model_copy(update={"device": name})})
    plot_similarity(profile, tmp_path / "similarity.png")
    plot_front(profile, tmp_path / "front.png")
    assert all((tmp_path / f"{figure}.png").stat().st_size > 1000 for figure in ("similarity", "front"))


@pytest.mark.parametrize("factor", [101.0, float("inf")])
def test_a_speed_up_out_of_reach_says_the_limit(factor: float) -> None:
    """By hand: 101 is above 1, so that was not what is wrong with it."""
    with pytest.raises(EdgeSkipError, match="at most 100"):
        Budget(min_speedup=factor)
    assert Budget(min_speedup=100).min_speedup == 100
