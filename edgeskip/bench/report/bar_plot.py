"""Draws what times are made of: a bar for each entry, a piece for each part, told apart by hatching too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeskip.bench.analysis.formatting import format_number
from edgeskip.bench.report.breakdown import TimeShare
from edgeskip.bench.report.plot_style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PAPER,
    SKY,
    YELLOW,
    fit_text,
    is_narrow,
    new_figure,
    style_axes,
    text_size,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BARS = 40  # bars of one device; the table has them all
_LOOKS = {
    "template and tokenizer": (ORANGE, "xx"), "prefill": (SKY, ""), "drafting": (YELLOW, "//"),
    "verifying": (GREEN, ""), "plain steps": (BLUE, ".."), "inference runtime": (SKY, ""), "rest": (PAPER, "\\\\"),
}  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """One entry's parts, in milliseconds."""

    name: str
    parts: list[TimeShare]

    @property
    def total(self) -> float:
        return sum(part.ms for part in self.parts)


Groups = Sequence[tuple[str, list[Bar]]]


def describe_bars(title: str, groups: Groups) -> str:
    """The figure in words."""
    parts = [f"{title}."]
    for device, bars in groups:
        for bar in bars[:4]:
            pieces = ", ".join(f"{part.name} {format_number(part.ms)} ms" for part in bar.parts)
            parts.append(f"{device}, {bar.name}: {pieces}.")
        if len(bars) > 4:
            parts.append(f"{len(bars) - 4} more on {device}.")
    parts.append("All numbers are in the table below.")
    return " ".join(parts)


def bar_plot(groups: Groups, axis: str, width: int) -> Figure:
    """A panel for each device with a scale of its own: a phone's milliseconds would hide a GPU's."""
    narrow, size = is_narrow(width), text_size(width)
    step, above, below = (38, 30, 46) if narrow else (28, 30, 46)
    drawn = [(device, bars[:MAX_BARS]) for device, bars in groups]
    names = list(dict.fromkeys(part.name for _, bars in drawn for bar in bars for part in bar.parts if part.ms > 0))
    legend = 20 * (-(-len(names) // _columns(narrow))) + 4
    height = sum(step * len(bars) + above + below for _, bars in drawn) + legend
    left = 8 if narrow else 0.46 * width
    figure = new_figure(width, height)
    top = float(legend)
    for device, bars in drawn:
        tall = step * len(bars)
        top += above
        panel = figure.add_axes((left / width, 1 - (top + tall) / height, (width - left - 22) / width, tall / height))
        title = fit_text(device, width - 16, size + 1)
        panel.annotate(
            title, (0, 1), (8 - left if not narrow else 0, 8), xycoords="axes fraction", textcoords="offset points",
            fontsize=size + 1, fontweight="bold", color=INK,
        )  # fmt: skip
        _panel(panel, bars, step, width, left)
        panel.set_xlabel(axis, fontsize=size)
        top += tall + below
    _legend(figure, names, size, narrow)
    return figure


def _panel(panel: Axes, bars: Sequence[Bar], step: float, width: int, left: float) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    narrow, size = is_narrow(width), text_size(width)
    style_axes(panel, axis="x", width=width)
    panel.set_ylim(step * len(bars), 0)
    panel.set_yticks([])
    panel.set_xlim(0, max(bar.total for bar in bars) * 1.18 or 1)
    panel.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8, steps=[1, 2, 5, 10]))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.6g}"))
    for at, bar in enumerate(bars):
        middle = step * at + (25 if narrow else step / 2)
        start = 0.0
        for part in bar.parts:
            colour, hatch = _LOOKS.get(part.name, (GREY, ""))
            panel.barh([middle], [part.ms], 14, left=start, facecolor=colour, edgecolor=INK, linewidth=0.8, hatch=hatch)
            start += part.ms
        panel.annotate(
            format_number(bar.total), (start, middle), (5, 0), textcoords="offset points", fontsize=size, color=INK,
            va="center", bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
        space = width - 16 if narrow else left - 24
        panel.annotate(
            fit_text(bar.name, space, size), (0, step * at + 9 if narrow else middle), (0 if narrow else 16 - left, 0),
            xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=size, color=INK, va="center",
        )  # fmt: skip


def _legend(figure: Figure, names: Sequence[str], size: float, narrow: bool) -> None:
    from matplotlib.patches import Patch

    handles = []
    for name in names:
        colour, hatch = _LOOKS.get(name, (GREY, ""))
        handles.append(Patch(facecolor=colour, edgecolor=INK, hatch=hatch, linewidth=0.8, label=name))
    figure.legend(
        handles=handles, loc="upper left", ncols=_columns(narrow), frameon=False, fontsize=size, borderaxespad=0.2,
        columnspacing=1.2, handlelength=1.8,
    )  # fmt: skip


def _columns(narrow: bool) -> int:
    return 2 if narrow else 6
