"""Figures with two axes: speed-up against loss as numbered points, accepted drafts as lines over their position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeskip.bench.report import plot_style as style
from edgeskip.bench.report.plot_style import INK, PAPER, SOFT, fit_text, legend_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LINES = 8  # that can be told apart; the table has them all
Lines = Sequence[tuple[str, str, Sequence[float]]]  # name, device, from the first position on shares of rounds


@dataclass(frozen=True)
class TradeoffPoint:
    """`number` is its name in the list; `low` and `high` bound the speed-up; a loss that was not measured is None."""

    number: int
    device: str
    speedup: float
    low: float | None
    high: float | None
    perplexity: float | None  # share
    kl: float | None  # nats per token
    by_label: bool


def line_plot(lines: Lines, width: int) -> Figure:
    """Draw how many drafted tokens rounds gave out, a line for each entry.

    In a narrow figure the legend has the device on a line of its own.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    narrow, size = style.is_narrow(width), style.text_size(width)
    shown = lines[:MAX_LINES]
    key = (32.0 if narrow else 18.0) * len(shown) + 10
    tall, below, left = (230, 50, 52) if narrow else (260, 52, 62)
    figure = style.new_figure(width, key + tall + below)
    panel = style.add_axes(figure, left, key, width - left - 12, tall, grid="both")
    handles = []
    for at, (name, device, shares) in enumerate(shown):
        look: dict[str, Any] = {
            **_look(at), "linestyle": style.LINES[at % len(style.LINES)], "markersize": 7, "linewidth": 1.6,
            "markeredgecolor": PAPER, "markeredgewidth": 0.6,
        }  # fmt: skip
        names = [f"{name},", device] if narrow else [f"{name}, {device}"]
        label = legend_text("\n".join(fit_text(line, width - 50, size) for line in names))
        panel.plot(range(1, len(shares) + 1), [100 * share for share in shares], **look)
        handles.append(Line2D([], [], **look, label=label))
    panel.set_ylim(0, 100)
    panel.set_xlim(0.7, max(len(shares) for _, _, shares in shown) + 0.3)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("drafted tokens accepted, at least", fontsize=size)
    panel.set_ylabel("share of rounds, %", fontsize=size)
    style.add_legend(figure, handles, handlelength=3)
    return figure


def tradeoff_plot(points: Sequence[TradeoffPoint], width: int) -> Figure:
    """Draw axes for perplexity and for KL, if there are any; each device has a color and a shape."""
    from matplotlib.lines import Line2D

    narrow = style.is_narrow(width)
    kinds = [kind for kind in ("perplexity", "kl") if any(getattr(point, kind) is not None for point in points)]
    devices = list(dict.fromkeys(point.device for point in points))
    key = 18.0 * len(devices) + 8
    tall, below, left = (230, 52, 52) if narrow else (300, 56, 62)
    rows = len(kinds) if narrow else 1
    figure = style.new_figure(width, key + rows * (tall + below) + 12)
    across = width if narrow or len(kinds) == 1 else width / 2
    for at, kind in enumerate(kinds):
        column, row = (0, at) if narrow else (at, 0)
        top = key + 12 + row * (tall + below)
        panel = style.add_axes(
            figure, column * across + left, top, across - left - (8 if narrow else 12), tall, grid="both"
        )
        _draw_points(panel, points, kind, devices, style.text_size(width))
    labels = [legend_text(fit_text(device, width - 40, style.text_size(width))) for device in devices]
    handles = [
        Line2D([], [], linestyle="none", markersize=7, label=text, **_look(at)) for at, text in enumerate(labels)
    ]
    style.add_legend(figure, handles, handletextpad=0.3)
    return figure


def _draw_points(panel: Axes, points: Sequence[TradeoffPoint], kind: str, devices: list[str], size: float) -> None:
    shown = [point for point in points if getattr(point, kind) is not None]
    scale = 100.0 if kind == "perplexity" else 1.0
    xs = [point.speedup for point in shown]
    ys = [scale * getattr(point, kind) for point in shown]
    for point, x, y in zip(shown, xs, ys, strict=True):
        look = _look(devices.index(point.device))
        if point.low is not None and point.high is not None:
            panel.plot([point.low, point.high], [y, y], "-", color=look["color"], linewidth=1.2, zorder=2)
        face = PAPER if point.by_label else look["color"]
        edge = {"markerfacecolor": face, "markeredgecolor": look["color"], "markersize": 8}
        panel.plot([x], [y], look["marker"], zorder=3, **edge)
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
    _write_numbers(panel, [(x, y, point.number) for x, y, point in zip(xs, ys, shown, strict=True)], size)


def _write_numbers(panel: Axes, places: Sequence[tuple[float, float, int]], size: float) -> None:
    """Write each number where the fewest others are: around its point, farther out if it is crowded."""
    points = [tuple(panel.transData.transform((x, y))) for x, y, _ in places]
    occupied: list[tuple[float, float]] = list(points)
    frame = panel.get_window_extent()
    around = [(1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1.4), (0, -1.4), (1.5, 0), (-1.5, 0)]
    offsets = [(reach * dx, reach * dy) for reach in (9.0, 17.0, 26.0, 36.0) for dx, dy in around]
    for (px, py), (x, y, number) in zip(points, places, strict=True):
        spots = [(px + dx, py + dy) for dx, dy in offsets]
        inside = [s for s in spots if frame.x0 + 6 < s[0] < frame.x1 - 6 and frame.y0 + 6 < s[1] < frame.y1 - 6]
        free = (s for s in inside if all(abs(s[0] - tx) > 17 or abs(s[1] - ty) > 11 for tx, ty in occupied))
        spot = next(free, spots[0])
        occupied.append(spot)
        far = max(abs(spot[0] - px), abs(spot[1] - py)) > 18
        line = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.6, "shrinkA": 4, "shrinkB": 4}
        panel.annotate(
            str(number), (x, y), (spot[0] - px, spot[1] - py), textcoords="offset points", ha="center", va="center",
            fontsize=size, color=INK, zorder=4, arrowprops=line if far else None,
        )  # fmt: skip


def _look(at: int) -> dict[str, Any]:
    return {"color": style.SERIES[at % len(style.SERIES)], "marker": style.MARKERS[at % len(style.MARKERS)]}
