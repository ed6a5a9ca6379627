"""How `methods.py` shows its results: a table by number of sublayers, one at equal speed-up, and the figure."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgeskip.cli.views.similarity_plot import FORMATS
from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.core.files import replace_file
from harness.results import Table

NAMES = {
    "budget": "EdgeSkip, budget (linear)",
    "budget-affine": "the same sublayers, affine",
    "adaskip": "AdaSkip (scale)",
    "early-exit": "early exit",
    "skipdecode": "SkipDecode",
    "unified": "Unified",
    "least-similar": "LeastSkip (control)",
}
# Okabe and Ito's colors; markers tell the methods apart without them.
LOOK = {
    "budget": ("#D55E00", "o"), "budget-affine": ("#56B4E9", "P"), "adaskip": ("#0072B2", "s"),
    "early-exit": ("#009E73", "^"),
    "skipdecode": ("#CC79A7", "v"), "unified": ("#E69F00", "D"), "least-similar": ("#999999", "x"),
}  # fmt: skip
SHOWN_UP_TO = 1000.0  # of perplexity in the figure; beyond, a model says nothing, and tables give its order
Row = dict[str, Any]


def tables_of(
    results: Sequence[Row], rows: Sequence[str], speedups: Sequence[float], ours: Sequence[str]
) -> list[Table]:
    """By number of sublayers, and at equal speed-up; cells that were not measured are empty."""
    dense = next((row for row in results if row["method"] == "dense"), None)
    tasks = list(dict.fromkeys(task for row in results for task in row["tasks"]))
    methods = [name for name in NAMES if any(row["method"] == name for row in results)]
    heads = ["sublayers skipped", "method (lossy-skip)", "perplexity", "prefill", "decode", *tasks]
    lines = [_cells("0", "dense", dense, tasks)] if dense else []
    for wanted in rows:
        for method in methods:
            found = next((row for row in results if (row["method"], row["wanted"]) == (method, wanted)), None)
            if found:
                lines.append(_cells(wanted, NAMES[method], found, tasks))
    others = [method for method in methods if method not in ours]
    at_speed = []
    for speed in speedups:
        values = {method: perplexity_at(results, method, speed) for method in methods}
        best = min((value for method in others if (value := values[method])), default=None)
        mine = values.get(ours[0])
        cells = [_perplexity(value, 1) if (value := values[method]) else "–" for method in methods]
        at_speed.append([f"{speed:.2f}×", *cells, f"{mine / best:.2f}" if mine and best else ""])
    columns = ["decode speed-up, measured", *(NAMES[name] for name in methods), "ours / best"]
    return [
        Table("By number of sublayers", heads, lines),
        Table("Perplexity at equal measured decode speed-up", columns, at_speed),
    ]


def perplexity_at(results: Sequence[Row], method: str, speed: float) -> float | None:
    """Perplexity of the method at `speed` times dense's decoding speed: between its measured plans, dense among
    them, log perplexity is linear in the speed-up. A plan that is slower and worse than another of the method
    is ignored. None if it never gets there.
    """
    points = sorted(
        (row["decode"]["median"], math.log(row["perplexity"]["value"]))
        for row in results
        if row["method"] in (method, "dense")
    )
    front: list[tuple[float, float]] = []
    for point in reversed(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    front.reverse()
    for (slow, low), (fast, high) in pairwise(front):
        if slow <= speed <= fast:
            share = (speed - slow) / (fast - slow) if fast > slow else 0.0
            return math.exp(low + share * (high - low))
    return None


def check_figure(path: Path) -> None:
    """Raise EdgeSkipError if no figure could be written there; before long work."""
    if path.suffix.lower() not in FORMATS:
        raise EdgeSkipError(f"--figure {path}: a figure is one of {', '.join(FORMATS)}: name such a file")
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plot")


def plot(results: Sequence[Row], path: Path, title: str) -> None:
    """Perplexity (log) against measured decode speed-up, a line for each method, bars for the quartiles over turns."""
    check_figure(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(8.4, 5.2), dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for method, (color, marker) in LOOK.items():
        of_method = [row for row in results if row["method"] == method and row["perplexity"]["value"] <= SHOWN_UP_TO]
        of_method.sort(key=lambda row: row["decode"]["median"])
        if not of_method:
            continue
        x = [row["decode"]["median"] for row in of_method]
        y = [row["perplexity"]["value"] for row in of_method]
        errors = [[row["decode"]["median"] - row["decode"]["low"] for row in of_method],
                  [row["decode"]["high"] - row["decode"]["median"] for row in of_method]]  # fmt: skip
        panel.errorbar(
            x, y, xerr=errors, color=color, marker=marker, markersize=6, linewidth=1.4, elinewidth=0.7,
            label=NAMES[method],
        )  # fmt: skip
        for row, a, b in zip(of_method, x, y, strict=True):
            panel.annotate(str(len(row["skip"])), (a, b), (4, 5), textcoords="offset points", fontsize=7, color=color)
    dense = next((row for row in results if row["method"] == "dense"), None)
    if dense:
        panel.axhline(dense["perplexity"]["value"], color="#222222", linewidth=1, linestyle=":", label="dense")
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_yticks([25, 50, 100, 200, 400, 800])
    panel.set_xlabel("measured decode speed-up over dense")
    panel.set_ylabel("WikiText-2 test perplexity (log)")
    panel.set_title(f"{title}: what skipping costs and gains (numbers: sublayers skipped)", fontsize=11)
    panel.grid(color="#DDDDDD", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=9)
    data = io.BytesIO()
    figure.savefig(data, format=path.suffix.lower()[1:], metadata={"Title": f"Frontier of {title}"})
    replace_file(path, data.getvalue())


def _perplexity(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if value < SHOWN_UP_TO else f"{value:.0e}"


def _cells(wanted: str, name: str, row: Row, tasks: Sequence[str]) -> list[str]:
    decode = row["decode"]
    speed = f"{decode['median']:.2f}× [{decode['low']:.2f}–{decode['high']:.2f}]"
    cells = [wanted, name, _perplexity(row["perplexity"]["value"], 2), f"{row['prefill']['median']:.2f}×", speed]
    for task in tasks:
        found = row["tasks"].get(task)
        interval = found and found["interval"]
        text = f"{found['value']:.1f}" if found else ""
        cells.append(text + (f" [{interval[0]:.1f}–{interval[1]:.1f}]" if interval else ""))
    return cells
