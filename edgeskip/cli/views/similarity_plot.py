"""A figure of a profile's IO similarities: attention and FFN per layer, prefill and decode, skipped sublayers marked.

As AdaSkip plots its observations. Needs matplotlib (the `plot` extra).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.core.files import replace_file
from edgeskip.core.sublayers import KINDS, Kind, Sublayer
from edgeskip.profiles.schema import Phase, PhaseStatistics, Profile

FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito's blue and vermilion, distinguishable under every common color blindness; markers and line styles
# distinguish the two without color.
_LOOK: dict[Kind, tuple[str, str, str, str]] = {
    "attn": ("attention", "#0072B2", "o", "-"),
    "ffn": ("FFN", "#D55E00", "s", "--"),
}
_TICKS = (-1, -0.5, 0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)
_INK, _GRID = "#222222", "#DDDDDD"


def plot_similarity(profile: Profile, path: Path) -> None:
    """Write the figure to `path`; its suffix (.png, .svg or .pdf) chooses the format."""
    if path.suffix.lower() not in FORMATS:
        raise EdgeSkipError(f"--plot {path}: the format is unknown; choose {', '.join(FORMATS)}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "plot") from error

    phases: tuple[Phase, ...] = ("prefill", "decode")
    figure = Figure(figsize=(11, 4.6), dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, phase in zip(panels, phases, strict=True):
        _draw_phase(panel, profile, phase)
    _widen_towards_one(panels, [getattr(s, phase) for s in profile.sublayers for phase in phases])
    panels[0].set_ylabel("mean IO similarity (spread out towards 1)", color=_INK)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=10)
    figure.suptitle(_title(profile), fontsize=12, color=_INK, parse_math=False)

    data = io.BytesIO()
    metadata = {"Title": f"IO similarity of {profile.model.name}"}
    if path.suffix.lower() == ".png":
        metadata["Description"] = describe(profile)
    figure.savefig(data, format=path.suffix.lower()[1:], metadata=metadata)
    replace_file(path, data.getvalue())


def describe(profile: Profile) -> str:
    """Return the figure in words, for those who cannot see it; a PNG carries it as its Description."""
    parts = [f"IO similarity per layer of {profile.model.name}, {profile.model.num_blocks} layers."]
    for kind in KINDS:
        of_kind = [statistics for statistics in profile.sublayers if statistics.name.startswith(kind)]
        low = min(of_kind, key=lambda s: s.prefill.similarity)
        high = max(of_kind, key=lambda s: s.prefill.similarity)
        parts.append(
            f"{_LOOK[kind][0]}, prefill: from {low.prefill.similarity:.3f} ({low.name}) "
            f"to {high.prefill.similarity:.3f} ({high.name})."
        )
    skipped = profile.plan.skip if profile.plan else []
    parts.append(f"Skipped: {', '.join(skipped) or 'none'}.")
    return " ".join(parts)


def _draw_phase(panel: Any, profile: Profile, phase: Phase) -> None:
    skipped = set(profile.plan.skip) if profile.plan else set()
    blocks = range(profile.model.num_blocks)
    tokens = 0
    marked: list[tuple[int, float]] = []
    for kind in KINDS:
        label, color, marker, line = _LOOK[kind]
        values: list[float] = []
        for block in blocks:
            sublayer = Sublayer(block, kind)
            statistics = getattr(profile.statistics(sublayer), phase)
            if statistics is None:
                break
            tokens = statistics.tokens
            values.append(statistics.similarity)
            if str(sublayer) in skipped:
                marked.append((block, statistics.similarity))
        if values:
            panel.plot(blocks, values, line, marker=marker, color=color, markersize=5, linewidth=1.4, label=label)
    if marked:
        panel.plot(
            *zip(*marked, strict=True),
            linestyle="none",
            marker="o",
            markersize=12,
            markerfacecolor="none",
            markeredgecolor=_INK,
            markeredgewidth=1.4,
            label="skipped",
        )
    panel.set_title(f"{phase} ({tokens:,} tokens)" if tokens else f"{phase} (not measured)", fontsize=11, color=_INK)
    panel.set_xlabel("layer", color=_INK)
    panel.grid(axis="y", color=_GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.xaxis.get_major_locator().set_params(integer=True)


def _widen_towards_one(panels: Any, statistics: list[PhaseStatistics | None]) -> None:
    """Space the y axis by −log(1 − similarity): most sublayers lie between 0.95 and 1, the first far below."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    def spread(similarity: NDArray[np.float64]) -> NDArray[np.float64]:
        return -np.log10(np.maximum(1 - similarity, 1e-7))

    def gather(place: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1 - 10.0**-place

    places = spread(np.array([s.similarity for s in statistics if s is not None]))
    low, high = gather(places.min() - 0.08), gather(places.max() + 0.12)  # room for the rings
    for panel in panels:
        panel.set_yscale("function", functions=(spread, gather))
        panel.set_ylim(low, high)
        panel.yaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if low <= tick <= high]))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
        panel.yaxis.set_minor_locator(NullLocator())


def _title(profile: Profile) -> str:
    plan = profile.plan
    if plan is None or not plan.skip:
        return f"{profile.model.name}: IO similarity per layer"
    return (
        f"{profile.model.name}: IO similarity per layer; {len(plan.skip)} of {len(profile.sublayers)} sublayers "
        f"skipped ({plan.method}, compensation {plan.compensation})"
    )
