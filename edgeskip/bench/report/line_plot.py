"""Draws how many drafted tokens rounds gave out: a line for each entry over the position in the draft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgeskip.bench.report.plot_style import (
    LINES,
    MARKERS,
    PAPER,
    SERIES,
    fit_text,
    is_narrow,
    legend_text,
    new_figure,
    style_axes,
    text_size,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_LINES = 8  # lines that can be told apart; the table has them all

Lines = Sequence[tuple[str, str, Sequence[float]]]  # name, device, from the first position on shares of rounds


def line_plot(lines: Lines, width: int) -> Figure:
    """A narrow figure has the device on a line of its own."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    narrow, size = is_narrow(width), text_size(width)
    shown = lines[:MAX_LINES]
    key = (32.0 if narrow else 18.0) * len(shown) + 10
    tall, below, left = (230, 50, 52) if narrow else (260, 52, 62)
    height = key + tall + below
    figure = new_figure(width, height)
    panel = figure.add_axes((left / width, below / height, (width - left - 12) / width, tall / height))
    style_axes(panel, axis="both", width=width)
    panel.spines["left"].set_visible(True)
    handles = []
    for at, (name, device, shares) in enumerate(shown):
        look: dict[str, Any] = {
            "color": SERIES[at % len(SERIES)], "linestyle": LINES[at % len(LINES)],
            "marker": MARKERS[at % len(MARKERS)],
            "markersize": 7, "linewidth": 1.6, "markeredgecolor": PAPER, "markeredgewidth": 0.6,
        }  # fmt: skip
        names = [f"{name},", device] if narrow else [f"{name}, {device}"]
        label = legend_text("\n".join(fit_text(line, width - 50, size) for line in names))
        panel.plot(range(1, len(shares) + 1), [100 * share for share in shares], **look)
        handles.append(Line2D([], [], **look, label=label))
    panel.set_ylim(0, 100)
    longest = max(len(shares) for _, _, shares in shown)
    panel.set_xlim(0.7, longest + 0.3)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("drafted tokens accepted, at least", fontsize=size)
    panel.set_ylabel("share of rounds, %", fontsize=size)
    figure.legend(
        handles=handles, loc="upper left", ncols=1, frameon=False, fontsize=size, borderaxespad=0.2, handlelength=3
    )
    return figure
