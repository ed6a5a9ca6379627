"""Figures with a line for each entry, grouped by device: dots with a range over rounds, bars of the parts of a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from edgeskip.bench.analysis.formatting import format_number
from edgeskip.bench.report import plot_style as style
from edgeskip.bench.report.breakdown import TimeShare
from edgeskip.bench.report.plot_style import INK, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BARS, MAX_DOTS = 40, 60  # entries drawn of one device; the table has them all
_LOG_FROM = 12.0  # times between the smallest and the largest
_ABOVE, _BELOW = 30, 46  # pixels for a device's name, and for an axis with its label
_LOOKS = {
    "template and tokenizer": (style.ORANGE, "xx"), "prefill": (style.SKY, ""), "drafting": (style.YELLOW, "//"),
    "verifying": (style.GREEN, ""), "plain steps": (style.BLUE, ".."), "inference runtime": (style.SKY, ""),
    "rest": (PAPER, "\\\\"),
}  # fmt: skip


@dataclass(frozen=True)
class Dot:
    """One entry: `middle` between `low` and `high`; `shown` is written beside it."""

    name: str
    strategy: str
    middle: float
    low: float
    high: float
    shown: str


@dataclass(frozen=True)
class Bar:
    """One entry's parts, in milliseconds."""

    name: str
    parts: list[TimeShare]

    @property
    def total(self) -> float:
        return sum(part.ms for part in self.parts)


Dots = Sequence[tuple[str, list[Dot]]]  # by device
Bars = Sequence[tuple[str, list[Bar]]]
Row = TypeVar("Row", Dot, Bar)


def describe_dots(title: str, axis: str, groups: Dots) -> str:
    """Describe the figure in words."""
    parts = [f"{title}, {axis}."]
    for device, dots in groups:
        low, high = min(dots, key=lambda dot: dot.middle), max(dots, key=lambda dot: dot.middle)
        ends = [f"{format_number(dot.middle)} ({dot.name})" for dot in (low, high)]
        parts.append(f"{device}: {ends[0]}." if low is high else f"{device}: from {ends[0]} to {ends[1]}.")
        if len(dots) > MAX_DOTS:
            parts.append(f"{len(dots) - MAX_DOTS} more entries of this device are not drawn.")
    return " ".join([*parts, "All numbers are in the table below."])


def describe_bars(title: str, groups: Bars) -> str:
    """Describe the figure in words."""
    parts = [f"{title}."]
    for device, bars in groups:
        for bar in bars[:4]:
            pieces = ", ".join(f"{part.name} {format_number(part.ms)} ms" for part in bar.parts)
            parts.append(f"{device}, {bar.name}: {pieces}.")
        if len(bars) > 4:
            parts.append(f"{len(bars) - 4} more on {device}.")
    return " ".join([*parts, "All numbers are in the table below."])


def dot_plot(groups: Dots, axis: str, width: int) -> Figure:
    """Draw a dot for each entry, all devices on one scale: from 0, or logarithmic if values lie far apart."""
    from matplotlib.lines import Line2D

    shown = [(device, dots[:MAX_DOTS]) for device, dots in groups]
    every = [dot for _, dots in shown for dot in dots]
    low, high = min(dot.low for dot in every), max(dot.high for dot in every)
    logarithmic, narrow = high / low > _LOG_FROM, style.is_narrow(width)

    def mark(panel: Axes, dot: Dot, y: float) -> tuple[float, str]:
        color, marker = style.STRATEGIES.get(dot.strategy, (INK, "o"))
        if not narrow:
            panel.axhline(y, color=style.GRID, linewidth=0.5, zorder=0.5)
        panel.plot([dot.low, dot.high], [y, y], "-", color=color, linewidth=2, solid_capstyle="butt", zorder=2)
        edge: dict[str, Any] = {"markersize": 7, "markeredgecolor": PAPER, "markeredgewidth": 0.8}
        panel.plot([dot.middle], [y], marker, color=color, zorder=3, **edge)
        return dot.high, dot.shown

    def scale(panel: Axes, _: Sequence[Dot]) -> None:
        from matplotlib.ticker import LogLocator, NullLocator

        room = 0.62 if narrow else 0.70  # share of the axis that the data take; the rest is for the numbers
        if not logarithmic:
            panel.set_xlim(0, high / room)
            return
        panel.set_xscale("log")
        panel.set_xlim(low / 1.15, low / 1.15 * (high * 1.15 / low) ** (1 / room))
        subs = (1.0,) if high / low > 500 else (1.0, 3.0) if high / low > 50 or narrow else (1.0, 2.0, 5.0)
        panel.xaxis.set_major_locator(LogLocator(subs=subs))
        panel.xaxis.set_minor_locator(NullLocator())

    handles = [
        Line2D([], [], linestyle="none", marker=shape, color=color, markersize=7, label=name)
        for name, (color, shape) in style.STRATEGIES.items()
        if any(dot.strategy == name for dot in every)
    ]
    label = axis + (" (logarithmic)" if logarithmic else "")
    return _row_plot(shown, label, width, mark, scale, handles, len(handles), one_scale=True)


def bar_plot(groups: Bars, axis: str, width: int) -> Figure:
    """Draw a bar for each entry, a piece for each part, with hatching besides color.

    Every device has its own scale: a phone's milliseconds would hide a GPU's.
    """
    from matplotlib.patches import Patch

    shown = [(device, bars[:MAX_BARS]) for device, bars in groups]
    names = dict.fromkeys(part.name for _, bars in shown for bar in bars for part in bar.parts if part.ms > 0)

    def look(name: str) -> dict[str, Any]:
        color, hatch = _LOOKS.get(name, (style.GREY, ""))
        return {"facecolor": color, "edgecolor": INK, "linewidth": 0.8, "hatch": hatch}

    def mark(panel: Axes, bar: Bar, y: float) -> tuple[float, str]:
        start = 0.0
        for part in bar.parts:
            panel.barh([y], [part.ms], 14, left=start, **look(part.name))
            start += part.ms
        return start, format_number(bar.total)

    def scale(panel: Axes, bars: Sequence[Bar]) -> None:
        panel.set_xlim(0, max(bar.total for bar in bars) * 1.18 or 1)

    handles = [Patch(label=name, **look(name)) for name in names]
    return _row_plot(shown, axis, width, mark, scale, handles, 2 if style.is_narrow(width) else 6, one_scale=False)


def _row_plot(
    groups: Sequence[tuple[str, list[Row]]],
    label: str,
    width: int,
    mark: Callable[[Axes, Row, float], tuple[float, str]],
    scale: Callable[[Axes, Sequence[Row]], None],
    handles: Sequence[Any],
    columns: int,
    *,
    one_scale: bool,
) -> Figure:
    """Draw axes for each device and a line for each entry: its name, its marks, the text at their end.

    On a narrow figure the name stands above the marks, else in a column on the left. `mark` returns where the marks end
    and the text. With `one_scale` only the last device has tick labels.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    narrow, size = style.is_narrow(width), style.text_size(width)
    step = 38 if narrow else 26
    left = 8 if narrow else 0.46 * width
    top = 20.0 * -(-len(handles) // columns) + 4
    axes = 1 if one_scale else len(groups)
    figure = style.new_figure(width, top + sum(step * len(rows) + _ABOVE for _, rows in groups) + _BELOW * axes)
    beside: dict[str, Any] = {"textcoords": "offset points", "color": INK}
    for number, (device, rows) in enumerate(groups, start=1):
        top += _ABOVE
        panel = style.add_axes(figure, left, top, width - left - 22, step * len(rows), grid="x")
        panel.set_ylim(step * len(rows), 0)
        panel.set_yticks([])
        panel.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8, steps=[1, 2, 5, 10]))
        scale(panel, rows)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.6g}"))
        has_axis = not one_scale or number == len(groups)
        panel.tick_params(labelbottom=has_axis)
        panel.set_xlabel(label if has_axis else "", fontsize=size)
        title = style.fit_text(device, width - 16, size + 1)
        at = (0 if narrow else 8 - left, 8)
        panel.annotate(title, (0, 1), at, xycoords="axes fraction", fontsize=size + 1, fontweight="bold", **beside)
        for index, row in enumerate(rows):
            y = step * index + (25 if narrow else step / 2)
            end, text = mark(panel, row, y)
            box = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}
            panel.annotate(text, (end, y), (7, 0), fontsize=size, va="center", bbox=box, **beside)
            name = style.fit_text(row.name, width - 16 if narrow else left - 24, size)
            place, offset = (0, step * index + 10 if narrow else y), (0 if narrow else 16 - left, 0)
            panel.annotate(
                name, place, offset, xycoords=("axes fraction", "data"), fontsize=size, va="center", **beside
            )
        top += step * len(rows) + (_BELOW if has_axis else 0)
    style.add_legend(figure, handles, columns, columnspacing=1.2, handlelength=1.8, handletextpad=0.4)
    return figure
