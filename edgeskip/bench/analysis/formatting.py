"""Names and numbers as text for people. Knows no HTML: whatever shows the text escapes it."""

from __future__ import annotations

import math
import unicodedata

from edgeskip.bench.analysis.rows import MeasureRow
from edgeskip.bench.analysis.statistics import Ratio

# Control characters, unpaired surrogates, private and unassigned ones; and those that turn the writing's direction.
_UNPRINTABLE = {"Cc", "Cs", "Co", "Cn"}
_BIDI_CONTROLS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
NOT_MEASURED = "–"


def sanitize(text: str, limit: int = 300) -> str:
    """Return one line of printable characters, at most `limit`: what a file says about itself is not to be trusted."""
    shown = "".join(
        "\ufffd" if character in _BIDI_CONTROLS or unicodedata.category(character) in _UNPRINTABLE else character
        for character in " ".join(text.split())
    )
    return truncate(shown, limit)


def truncate(text: str, limit: int) -> str:
    """Return `text`, or its beginning and an ellipsis, `limit` characters in all."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def format_number(value: float, figures: int = 3) -> str:
    """Return three significant figures, all of whole numbers above: 0.0123, 1.50, 45.2, 12,346; 1e-05."""
    if abs(value) < 1e-4 or not math.isfinite(value):
        return f"{value:.{figures}g}"
    return f"{value:,.{_decimals(value, figures)}f}"


def format_mean_sd(row: MeasureRow) -> str:
    """Return mean ± sample standard deviation over rounds; the mean alone of one round."""
    if len(row.values) < 2:
        return format_number(row.mean)
    # A figure of the deviation is shown, but not for more than five of the mean.
    wanted = max(_decimals(row.mean, 3), _decimals(row.sd, 1))
    decimals = min(wanted, _decimals(row.mean, 5))
    return f"{row.mean:,.{decimals}f} ± {row.sd:,.{decimals}f}"


def format_interval(ratio: Ratio) -> str:
    """Return 1.58 to 1.66, or why there is no interval."""
    return "one round, no interval" if ratio.low is None or ratio.high is None else _format_range(ratio.low, ratio.high)


def format_ratio(ratio: Ratio) -> str:
    """Return 1.62×."""
    return f"{format_number(ratio.value)}×"


def format_percent(share: float, *, sign: bool = False) -> str:
    """Return 0.123 as 12.3 %, with a sign if asked for."""
    value = 100 * share
    if value == 0:
        return "0 %"
    decimals = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 0.995 else 2
    return f"{value:+.{decimals}f} %" if sign else f"{value:.{decimals}f} %"


def pluralize(count: int, thing: str, things: str | None = None) -> str:
    """Return 1 round, 2 rounds."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


def join_names(names: list[str]) -> str:
    """Return a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _format_range(low: float, high: float) -> str:
    return f"{format_number(low)} to {format_number(high)}"


def _decimals(value: float, figures: int) -> int:
    if value == 0 or not math.isfinite(value):
        return 0
    # Rounded first: 9.996 is 10.0, not 10.00.
    return max(0, figures - 1 - math.floor(math.log10(float(f"{abs(value):.{figures - 1}e}"))))
