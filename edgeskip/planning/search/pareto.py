"""The Pareto front of a search: plans that no other beats in quality and time, or in quality with as many skips; and
which of them a budget buys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiles.schema import ParetoFront, ParetoPoint

KL_DIGITS, SHARE_DIGITS, SPEEDUP_DIGITS = 4, 3, 2
"""Decimals that the front's table prints of KL, of shares (one of their per cent) and of speed-ups."""
MOST_SPEEDUP = 100
"""More than skipping sublayers could ever give."""


@dataclass(frozen=True)
class Budget:
    """What a plan may cost, exactly one of these; `point` is a number of the front, from 1."""

    max_kl: float | None = None
    max_ppl_increase: float | None = None  # a share: 0.1 = 10 %
    min_speedup: float | None = None  # of decoding
    skip_sublayers: int | None = None
    point: int | None = None

    def __post_init__(self) -> None:
        given = (self.max_kl, self.max_ppl_increase, self.min_speedup, self.skip_sublayers, self.point)
        if sum(value is not None for value in given) != 1:
            raise EdgeSkipError(
                "give the plan's budget with exactly one of --max-kl, --max-ppl-increase, --min-speedup, "
                "--skip-sublayers and --point"
            )
        if self.max_kl is not None and not self.max_kl > 0:
            raise EdgeSkipError(f"--max-kl {self.max_kl} allows no skip: give nats per token, e.g. 0.05")
        if self.max_ppl_increase is not None and not self.max_ppl_increase > 0:
            raise EdgeSkipError("--max-ppl-increase allows no skip: give a share above 0, e.g. 10%")
        if self.min_speedup is not None and not self.min_speedup > 1:
            raise EdgeSkipError(f"--min-speedup {self.min_speedup} is not a speed-up: give a factor above 1, e.g. 1.2")
        if self.min_speedup is not None and self.min_speedup > MOST_SPEEDUP:
            raise EdgeSkipError(
                f"--min-speedup {self.min_speedup:g} is out of reach: give a factor of at most {MOST_SPEEDUP}, e.g. 1.2"
            )
        if self.skip_sublayers is not None and self.skip_sublayers < 1:
            raise EdgeSkipError("--skip-sublayers 0 is the dense model: leave --method budget out")


def parse_share(text: str) -> float:
    """Return the share that `10%` or `0.1` means: 0.1.

    Raises:
        EdgeSkipError: For anything else.
    """
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        if share >= 1 and not text.endswith("%"):
            raise ValueError(text)
        return share
    except ValueError:
        raise EdgeSkipError(f"--max-ppl-increase {text} is not a share: write 10% or 0.1") from None


def pick_point(front: ParetoFront, budget: Budget, allowed: Sequence[int] | None = None) -> int:
    """Return the number, from 0, of the point that a budget buys.

    That is the fastest decoder within the budget or, for a speed, the plan that loses least. A point counts as
    the table prints it: one that prints 1.15× is picked by a speed-up of 1.15.

    Args:
        front: The front.
        budget: What the plan may cost.
        allowed: Numbers of the points to choose from; None = all.

    Raises:
        EdgeSkipError: If the front has no such point; the message names what it has.
    """
    if budget.point is not None:
        if not 1 <= budget.point <= len(front.points):
            raise EdgeSkipError(f"--point {budget.point}: the front has 1 … {len(front.points)}")
        if allowed is not None and budget.point - 1 not in allowed:
            raise EdgeSkipError(f"--point {budget.point} is beyond --max-skips or --search-kl: leave one out")
        return budget.point - 1
    numbers = list(range(len(front.points)) if allowed is None else allowed)
    if not numbers:
        raise EdgeSkipError("no point of the front is within --max-skips and --search-kl: allow more")
    return numbers[_pick(front, [front.points[number] for number in numbers], budget)]


def shown_kl(point: ParetoPoint) -> float:
    """Return KL as the table prints it."""
    return round(point.kl, KL_DIGITS)


def shown_speedup(point: ParetoPoint) -> float:
    """Return the decode speed-up as the table prints it."""
    return round(point.decode_speedup, SPEEDUP_DIGITS)


def shown_increase(point: ParetoPoint) -> float:
    """Return perplexity's increase plus its standard error, as a share, as the table prints them."""
    return round(round(point.perplexity_ratio - 1, SHARE_DIGITS) + round(point.perplexity_error, SHARE_DIGITS), 6)


def _pick(front: ParetoFront, points: Sequence[ParetoPoint], budget: Budget) -> int:
    if budget.max_kl is not None:
        most = budget.max_kl
        return _fastest(
            points, [min(p.kl, shown_kl(p)) <= most for p in points], f"KL ≤ {most:g}", f"{_least(points, 'kl'):.4g}"
        )
    if budget.max_ppl_increase is not None:
        most = budget.max_ppl_increase
        # A standard error to spare: of many points the one that looks just good enough is likelier worse than better.
        high = [p.perplexity_ratio - 1 + p.perplexity_error for p in points]
        least = f"{min(map(shown_increase, points)):.1%}"
        fits = [min(exact, shown_increase(p)) <= most + 1e-9 for exact, p in zip(high, points, strict=True)]
        wanted = f"a perplexity up to {budget.max_ppl_increase:.1%} higher, a standard error included"
        return _fastest(points, fits, wanted, least)
    if budget.skip_sublayers is not None:
        fits = [len(p.skip) == budget.skip_sublayers for p in points]
        wanted = f"{budget.skip_sublayers} skipped sublayers"
        most_skips = f"{max(len(p.skip) for p in points)} at most"
    else:
        fits = [max(p.decode_speedup, shown_speedup(p)) >= (budget.min_speedup or 0) for p in points]
        wanted = f"a decode speed-up of {budget.min_speedup:g}"
        most_skips = f"{max(map(shown_speedup, points)):.{SPEEDUP_DIGITS}f} at most"
    if not any(fits):
        raise EdgeSkipError(f"no point of the front has {wanted} ({most_skips}); lower the budget, or --search further")
    return min((n for n, fit in enumerate(fits) if fit), key=lambda n: _loss(front, points[n]))


def pareto_points(points: Sequence[ParetoPoint], record_loss: str) -> list[ParetoPoint]:
    """Return the points that no other one beats: with as many skips or fewer in loss, or in loss and time.

    By rising KL.
    """

    def loss(point: ParetoPoint) -> float:
        return point.kl if record_loss == "kl" else point.perplexity_ratio

    def beaten(point: ParetoPoint) -> bool:
        others = [other for other in points if other is not point and loss(other) <= loss(point)]
        slower = any(
            other.decode_speedup >= point.decode_speedup
            and (loss(other), -other.decode_speedup) < (loss(point), -point.decode_speedup)
            for other in others
        )
        same = any(len(other.skip) == len(point.skip) and loss(other) < loss(point) for other in others)
        return slower and same

    return sorted((point for point in points if not beaten(point)), key=lambda point: point.kl)


def _fastest(points: Sequence[ParetoPoint], fits: Sequence[bool], wanted: str, least: str) -> int:
    if not any(fits):
        raise EdgeSkipError(f"no point of the front has {wanted}: the least is {least}; allow more")
    return max((n for n, fit in enumerate(fits) if fit), key=lambda n: points[n].decode_speedup)


def _least(points: Sequence[ParetoPoint], name: str) -> float:
    found: float = min(getattr(point, name) for point in points)
    return found


def _loss(front: ParetoFront, point: ParetoPoint) -> float:
    return point.kl if front.objective == "kl" else point.perplexity_ratio
