"""Draws the speed-up of decoding against what is lost: numbered points, so that the list below can name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeskip.bench.report.plot_style import (
    INK,
    MARKERS,
    PAPER,
    SERIES,
    SOFT,
    fit_text,
    is_narrow,
    legend_text,
    new_figure,
    style_axes,
    text_size,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TradeoffPoint:
    """`number` names it in the list; `low` and `high` bound the speed-up; a loss that nobody measured is None."""

    number: int
    device: str
    speedup: float
    low: float | None
    high: float | None
    perplexity: float | None  # share
    kl: float | None  # nats per token
    by_label: bool


def tradeoff_plot(points: Sequence[TradeoffPoint], width: int) -> Figure:
    """One panel for perplexity, one for KL, where there are any; a device each has a colour and a shape."""
    narrow, size = is_narrow(width), text_size(width)
    kinds = [kind for kind in ("perplexity", "kl") if any(getattr(point, kind) is not None for point in points)]
    devices = list(dict.fromkeys(point.device for point in points))
    key = 18.0 * len(devices) + 8
    panel_height, below = (230, 52) if narrow else (300, 56)
    rows = len(kinds) if narrow else 1
    height = key + rows * (panel_height + below) + 12
    figure = new_figure(width, height)
    for at, kind in enumerate(kinds):
        column, row = (0, at) if narrow else (at, 0)
        across = width if narrow or len(kinds) == 1 else width / 2
        left = column * across + (52 if narrow else 62)
        top = key + 12 + row * (panel_height + below)
        panel = figure.add_axes(
            (
                left / width,
                1 - (top + panel_height) / height,
                (across - (60 if narrow else 74)) / width,
                panel_height / height,
            )
        )
        _panel(panel, points, kind, devices, width)
    _legend(figure, devices, size, width)
    return figure


def _panel(panel: Axes, points: Sequence[TradeoffPoint], kind: str, devices: list[str], width: int) -> None:
    size = text_size(width)
    style_axes(panel, axis="both", width=width)
    panel.spines["left"].set_visible(True)
    shown = [point for point in points if getattr(point, kind) is not None]
    scale = 100.0 if kind == "perplexity" else 1.0
    xs = [point.speedup for point in shown]
    ys = [scale * getattr(point, kind) for point in shown]
    for point, x, y in zip(shown, xs, ys, strict=True):
        colour, marker = _look(devices.index(point.device))
        if point.low is not None and point.high is not None:
            panel.plot([point.low, point.high], [y, y], "-", color=colour, linewidth=1.2, zorder=2)
        face = PAPER if point.by_label else colour
        panel.plot([x], [y], marker, markerfacecolor=face, markeredgecolor=colour, markersize=8, zorder=3)
    panel.plot([1.0], [0.0], "+", color=INK, markersize=10, markeredgewidth=1.6, zorder=2)
    panel.axvline(1.0, color=SOFT, linewidth=1, linestyle=":", zorder=1)
    bounds = [*xs, *(v for point in shown for v in (point.low, point.high) if v is not None), 1.0]
    room = 0.08 * (max(bounds) - min(bounds)) or 0.1
    panel.set_xlim(min(bounds) - room, max(bounds) + room)
    low, high = min([0.0, *ys]), max([0.0, *ys])
    extra = (high - low) or (1.0 if kind == "perplexity" else 0.01)
    panel.set_ylim(low - 0.12 * extra, high + 0.18 * extra)
    panel.set_xlabel("decode speed-up (times the baseline)", fontsize=size)
    panel.set_ylabel("perplexity increase, %" if kind == "perplexity" else "KL, nats per token", fontsize=size)
    _number(panel, [(x, y, point.number) for x, y, point in zip(xs, ys, shown, strict=True)], size)


def _number(panel: Axes, places: Sequence[tuple[float, float, int]], size: float) -> None:
    """Writes each number where the fewest others are: around its point, farther out where it is crowded."""
    points = [tuple(panel.transData.transform((x, y))) for x, y, _ in places]
    taken: list[tuple[float, float]] = list(points)
    frame = panel.get_window_extent()
    around = [(1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1.4), (0, -1.4), (1.5, 0), (-1.5, 0)]
    offsets = [(reach * dx, reach * dy) for reach in (9.0, 17.0, 26.0, 36.0) for dx, dy in around]
    for (px, py), (x, y, number) in zip(points, places, strict=True):
        spots = [(px + dx, py + dy) for dx, dy in offsets]
        inside = [s for s in spots if frame.x0 + 6 < s[0] < frame.x1 - 6 and frame.y0 + 6 < s[1] < frame.y1 - 6]
        free = (s for s in inside if all(abs(s[0] - tx) > 17 or abs(s[1] - ty) > 11 for tx, ty in taken))
        spot = next(free, spots[0])
        taken.append(spot)
        far = max(abs(spot[0] - px), abs(spot[1] - py)) > 18
        line = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.6, "shrinkA": 4, "shrinkB": 4}
        panel.annotate(
            str(number), (x, y), (spot[0] - px, spot[1] - py), textcoords="offset points", ha="center", va="center",
            fontsize=size, color=INK, zorder=4,
            arrowprops=line if far else None,
        )  # fmt: skip


def _look(at: int) -> tuple[str, str]:
    return SERIES[at % len(SERIES)], MARKERS[at % len(MARKERS)]


def _legend(figure: Figure, devices: list[str], size: float, width: int) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for at, device in enumerate(devices):
        colour, marker = _look(at)
        label = legend_text(fit_text(device, width - 40, size))
        handles.append(Line2D([], [], linestyle="none", marker=marker, color=colour, markersize=7, label=label))
    figure.legend(
        handles=handles, loc="upper left", ncols=1, frameon=False, fontsize=size, borderaxespad=0.2, handletextpad=0.3
    )
