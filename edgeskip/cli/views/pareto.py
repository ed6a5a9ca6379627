"""How a Pareto front is shown: a table, a figure of quality against predicted decode speed."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.cli.views.similarity_plot import FORMATS
from edgeskip.cli.views.tables import table
from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.core.files import replace_file
from edgeskip.planning.search.pareto import KL_DIGITS, SPEEDUP_DIGITS
from edgeskip.profiles.schema import ParetoFront, Profile

if TYPE_CHECKING:
    from rich.table import Table

    from edgeskip.planning.search.decode_set import DecodeSet
    from edgeskip.planning.search.search import FittedPlan

_ATTENTION, _CHOSEN, _INK, _GRID = "#0072B2", "#D55E00", "#222222", "#DDDDDD"


def front_table(front: ParetoFront, chosen: int) -> Table:
    """Return a row for each point; the chosen one is bold."""
    columns = ("point", "attn", "ffn", "KL", "perplexity", "top-1", "prefill", "decode")
    rows = table(*(f">{name}" for name in columns), title=f"lossy-skip plans; times predicted: {front.device}")
    for number, point in enumerate(front.points):
        attention = sum(name.startswith("attn.") for name in point.skip)
        row = [
            str(number + 1), str(attention), str(len(point.skip) - attention), f"{point.kl:.{KL_DIGITS}f}",
            f"{point.perplexity_ratio - 1:+.1%} ± {point.perplexity_error:.1%}", f"{point.top1_agreement:.1%}",
            f"{point.prefill_speedup:.{SPEEDUP_DIGITS}f}×", f"{point.decode_speedup:.{SPEEDUP_DIGITS}f}×",
        ]  # fmt: skip
        rows.add_row(*row, style="bold" if number == chosen else None)
    return rows


def front_line(front: ParetoFront) -> str:
    """Return what a front spans."""
    speeds = [point.decode_speedup for point in front.points]
    counts = [len(point.skip) for point in front.points]
    return (
        f"{len(counts)} plans of {min(counts)} to {max(counts)} sublayers, "
        f"KL {front.points[0].kl:.4f} to {front.points[-1].kl:.4f}, "
        f"decode {min(speeds):.2f}× to {max(speeds):.2f}× predicted ({front.device})"
    )


def quality_line(fitted: FittedPlan) -> str:
    """Return what a fitted plan costs."""
    quality, dense = fitted.quality, fitted.dense
    ratio, error = quality.perplexity_ratio(dense)
    return (
        f"on {fitted.tokens} tokens, in windows of {fitted.window}, that the fit did not use: "
        f"KL {quality.kl:.4f} nats per token, top-1 "
        f"{quality.top1:.1%}, perplexity {quality.perplexity:.2f} ({ratio - 1:+.1%} ± {error:.1%}, "
        f"dense {dense.perplexity:.2f})"
    )


def decode_line(found: DecodeSet | None) -> str:
    """Return what decoding can also skip."""
    if found is None:
        return "no decode set: the model's continuations ended before they could be measured"
    if not found.skip:
        return f"no decode set: KL on its own continuations is {found.kl_plan:.4f} already, nothing more fits"
    rates = ", ".join(f"{rate:.0%} after {window}" for window, rate in found.hit_rates.items())
    return (
        f"decoding can also skip {', '.join(map(str, sorted(found.skip)))}: KL on its own continuations "
        f"{found.kl_plan:.4f} → {found.kl:.4f}; β = {found.threshold:.4f}, P = {found.window} (right about what to "
        f"skip: {rates})"
    )


def check_figure(path: Path) -> None:
    """Raise EdgeSkipError if no figure can be written to `path`; call it before the work, not after."""
    if path.suffix.lower() not in FORMATS:
        raise EdgeSkipError(f"--plot {path}: the format is unknown; choose {', '.join(FORMATS)}")
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plot")


def plot_front(profile: Profile, path: Path) -> None:
    """Write the figure to `path`; its suffix (.png, .svg or .pdf) chooses the format."""
    check_figure(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    front = profile.front
    assert front is not None
    figure = Figure(figsize=(8, 4.8), dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    points = sorted(front.points, key=lambda point: point.decode_speedup)
    speeds = [point.decode_speedup for point in points]
    ratios = [100 * (point.perplexity_ratio - 1) for point in points]
    panel.plot(speeds, ratios, "o-", color=_ATTENTION, markersize=5, linewidth=1.2, label="front")
    for point, x, y in zip(points, speeds, ratios, strict=True):
        panel.annotate(str(len(point.skip)), (x, y), (4, 4), textcoords="offset points", fontsize=7, color=_INK)
        if profile.plan is not None and point.skip == profile.plan.skip:
            panel.plot([x], [y], "s", color=_CHOSEN, markersize=9, label="chosen", zorder=3)
    panel.set_xlabel(f"predicted decode speed-up ({front.device})", color=_INK, fontsize=9, parse_math=False)
    panel.set_ylabel("perplexity on held-out text, % above dense", color=_INK)
    title = f"{profile.model.name}: plans of 1 … sublayers (numbers), {front.compensation}"
    panel.set_title(title, fontsize=11, parse_math=False)
    panel.grid(color=_GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format=path.suffix.lower()[1:], metadata={"Title": f"Front of {profile.model.name}"})
    replace_file(path, data.getvalue())
