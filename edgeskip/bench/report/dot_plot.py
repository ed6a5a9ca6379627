"""Draws values of many entries, grouped by device: a dot, a line over the rounds, the number beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeskip.bench.analysis.formatting import format_number
from edgeskip.bench.report.plot_style import (
    GRID,
    INK,
    PAPER,
    SOFT,
    STRATEGIES,
    fit_text,
    is_narrow,
    new_figure,
    style_axes,
    text_size,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_DOTS = 60  # entries drawn of one device; the table has them all
_LOG_FROM = 12.0  # times between the smallest and the largest


@dataclass(frozen=True)
class Dot:
    """One entry: `middle` between `low` and `high`; `shown` is written beside it."""

    name: str
    strategy: str
    middle: float
    low: float
    high: float
    shown: str


Groups = Sequence[tuple[str, list[Dot]]]


def describe_dots(title: str, axis: str, groups: Groups) -> str:
    """The figure in words."""
    parts = [f"{title}, {axis}."]
    for device, dots in groups:
        low, high = min(dots, key=lambda dot: dot.middle), max(dots, key=lambda dot: dot.middle)
        if low is high:
            parts.append(f"{device}: {format_number(low.middle)} ({low.name}).")
        else:
            parts.append(
                f"{device}: from {format_number(low.middle)} ({low.name}) to "
                f"{format_number(high.middle)} ({high.name})."
            )
        if len(dots) > MAX_DOTS:
            parts.append(f"{len(dots) - MAX_DOTS} more entries of this device are not drawn.")
    parts.append("All numbers are in the table below.")
    return " ".join(parts)


def dot_plot(groups: Groups, axis: str, width: int) -> Figure:
    """A line for each entry; on a narrow figure the name stands above its dot, else in a column on the left."""
    narrow, size = is_narrow(width), text_size(width)
    step = 36 if narrow else 24
    drawn = [(device, dots[:MAX_DOTS]) for device, dots in groups]
    lines = sum(step * len(dots) + 30 for _, dots in drawn)
    left = 8 if narrow else 0.46 * width
    bottom = 44
    height = lines + bottom + 28
    figure = new_figure(width, height)
    panel = figure.add_axes((left / width, bottom / height, (width - left - 22) / width, lines / height))
    style_axes(panel, axis="x", width=width)
    panel.set_ylim(lines, 0)
    panel.set_yticks([])
    _scale(panel, [dot for _, dots in drawn for dot in dots], narrow)
    at = 0.0
    for device, dots in drawn:
        title = fit_text(device, width - 16, size + 1)
        panel.annotate(
            title, (0, at + 22), (8 - left if not narrow else 0, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", fontsize=size + 1, fontweight="bold", color=INK,
        )  # fmt: skip
        at += 30
        for dot in dots:
            _draw(panel, dot, at, step, width, left)
            at += step
    panel.set_xlabel(axis + (" (logarithmic)" if panel.get_xscale() == "log" else ""), fontsize=size)
    _legend(figure, [dot.strategy for _, dots in drawn for dot in dots], size)
    return figure


def _draw(panel: Axes, dot: Dot, at: float, step: float, width: int, left: float) -> None:
    narrow, size = is_narrow(width), text_size(width)
    colour, marker = STRATEGIES.get(dot.strategy, (INK, "o"))
    y = at + (step - 11 if narrow else step / 2)
    space = width - 16 if narrow else left - 24
    panel.annotate(
        fit_text(dot.name, space, size), (0, at + 11 if narrow else y), (0 if narrow else 16 - left, 0),
        xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=size, color=SOFT if narrow else INK,
        va="center",
    )  # fmt: skip
    if not narrow:
        panel.axhline(y, color=GRID, linewidth=0.5, zorder=0.5)
    panel.plot([dot.low, dot.high], [y, y], "-", color=colour, linewidth=2, solid_capstyle="butt", zorder=2)
    panel.plot(
        [dot.middle], [y], marker, color=colour, markersize=7, markeredgecolor=PAPER, markeredgewidth=0.8, zorder=3
    )
    panel.annotate(
        dot.shown, (dot.high, y), (8, 0), textcoords="offset points", fontsize=size, color=INK, va="center",
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5},
    )  # fmt: skip


def _scale(panel: Axes, dots: Sequence[Dot], narrow: bool) -> None:
    """From 0, or logarithmic where values lie far apart, with room on the right for the numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = min(dot.low for dot in dots), max(dot.high for dot in dots)
    room = 0.62 if narrow else 0.70  # of the axis' width is for the data
    if high / low > _LOG_FROM:
        panel.set_xscale("log")
        panel.set_xlim(low / 1.15, low / 1.15 * (high * 1.15 / low) ** (1 / room))
        subs = (1.0,) if high / low > 500 else (1.0, 3.0) if high / low > 50 or narrow else (1.0, 2.0, 5.0)
        panel.xaxis.set_major_locator(LogLocator(subs=subs))
        panel.xaxis.set_minor_locator(NullLocator())
    else:
        panel.set_xlim(0, high / room)
        panel.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8, steps=[1, 2, 5, 10]))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.6g}"))


def _legend(figure: Figure, strategies: Sequence[str], size: float) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="none", marker=shape, color=colour, markersize=7, label=name)
        for name, (colour, shape) in STRATEGIES.items()
        if name in strategies
    ]
    figure.legend(
        handles=handles, loc="upper left", ncols=len(handles), frameon=False, fontsize=size, borderaxespad=0.2,
        handletextpad=0.1, columnspacing=0.9,
    )  # fmt: skip
