"""Reusing the front that a profile keeps: what a later command leaves open, the front's search has settled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError

if TYPE_CHECKING:
    from edgeskip.profiles.schema import ParetoFront

# What a quality depends on, and the option that sets it.
_OPTIONS = {
    "fit_tokens": "--tokens",
    "search_tokens": "--tokens",
    "report_tokens": "--tokens",
    "context": "--window-tokens",
    "seed": "--seed",
    "compensation": "--compensation",
    "field": "--field",
    "device": "--device",
}
_AGAIN = "or add --search to search anew"


def resolve_options(
    front: ParetoFront, *, tokens: int | None, window_tokens: int | None, seed: int | None, compensation: str | None
) -> dict[str, Any]:
    """Return the options that the front was searched with, for those that are None.

    A front measured on more tokens also answers for fewer, so `tokens` may come back larger.

    Raises:
        EdgeSkipError: If more tokens are wanted than the front has, or another window, seed or compensation.
    """
    settings: Mapping[str, Any] = front.settings
    if tokens is not None and tokens > settings.get("fit_tokens", 0):
        raise EdgeSkipError(
            f"the profile's front was searched with --tokens {settings.get('fit_tokens')}, fewer than {tokens}: leave "
            f"--tokens out, {_AGAIN}"
        )
    for name, given in (("context", window_tokens), ("seed", seed), ("compensation", compensation)):
        if given is not None and name in settings and given != settings[name]:
            option = _OPTIONS[name]
            raise EdgeSkipError(
                f"the profile's front was searched with {option} {settings[name]}, not {given}: leave {option} out, "
                f"{_AGAIN}"
            )
    return {
        "tokens": settings.get("fit_tokens", tokens),
        "window_tokens": settings.get("context", window_tokens),
        "seed": settings.get("seed", seed),
        "compensation": settings.get("compensation", compensation),
    }


def points_within(front: ParetoFront, *, max_skips: int | None, search_kl: float | None) -> list[int]:
    """Return numbers, from 0, of the points that a search with these limits would have come to.

    Raises:
        EdgeSkipError: For a limit beyond the one that the front's search had.
    """
    points = front.points
    limits: Mapping[str, Any] = front.settings
    deepest, farthest = max(len(point.skip) for point in points), max(point.kl for point in points)
    # A front of an older version does not record where its search would have ended.
    most = limits.get("max_skips", deepest)
    if max_skips is not None and most is not None and max_skips > most:
        raise EdgeSkipError(
            f"the profile's front was searched for up to {most} skips, fewer than --max-skips {max_skips}: leave it "
            f"out, {_AGAIN}"
        )
    if search_kl is not None and search_kl > limits.get("max_kl", farthest):
        raise EdgeSkipError(
            f"the profile's front was searched up to {limits.get('max_kl', farthest):.4g} nats, less than --search-kl "
            f"{search_kl:g}: leave it out, {_AGAIN}"
        )
    return [
        number
        for number, point in enumerate(points)
        if (max_skips is None or len(point.skip) <= max_skips) and (search_kl is None or point.kl <= search_kl)
    ]


def check_settings(front: ParetoFront, settings: Mapping[str, Any]) -> None:
    """Raise EdgeSkipError, in terms of options, if a point of `front`, fitted again, would differ from its record."""
    for name, value in settings.items():
        if (before := front.settings.get(name)) == value:
            continue
        if name == "corpus":
            files = " ".join(f"--corpus {file.name}" for file in front.corpus if not file.name.startswith("edgeskip:"))
            advice = f"give {files} with the same content" if files else "leave --corpus out"
            raise EdgeSkipError(f"the profile's front was measured on other text: {advice}, {_AGAIN}")
        if name == "dtype":
            raise EdgeSkipError(
                f"the profile's front was searched on hardware that computes in {before}, not {value}: plan there, "
                f"{_AGAIN}"
            )
        if name not in _OPTIONS:
            raise EdgeSkipError(f"the profile's front was searched with another {name}: add --search to search anew")
        option = _OPTIONS[name]
        advice = f"leave {option} out" if before is None else f"give {option} {before}"
        raise EdgeSkipError(f"the profile's front was searched with another {option}: {advice}, {_AGAIN}")
