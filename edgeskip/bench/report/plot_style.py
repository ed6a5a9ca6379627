"""What all figures share: colours, sizes, fonts. A figure is drawn for a width in CSS pixels, 1 px = 1 pt.

The colours are Okabe and Ito's, told apart under every common colour blindness; the page maps each to a variable of
its own, so that the dark page has others.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from edgeskip.core.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NARROW, WIDE = 336, 860  # CSS pixels: a phone of 360 px less its margins; a desktop's column
INK, SOFT, GRID, PAPER = "#222222", "#595959", "#dddddd", "#ffffff"
BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
SKY, ORANGE, YELLOW, GREY = "#56b4e9", "#e69f00", "#f0e442", "#999999"
# CSS variable → (on the light page and in what is drawn, on the dark page). Blue and sky blue change places.
VARIABLES = {
    "ink": (INK, "#eeeeee"), "soft": (SOFT, "#b5b5b5"), "grid": (GRID, "#3c4043"), "paper": (PAPER, "#16181c"),
    "blue": (BLUE, SKY), "vermilion": (VERMILION, VERMILION), "green": (GREEN, GREEN), "purple": (PURPLE, PURPLE),
    "sky": (SKY, BLUE), "orange": (ORANGE, ORANGE), "yellow": (YELLOW, YELLOW), "grey": (GREY, GREY),
}  # fmt: skip
SERIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
STRATEGIES: dict[str, tuple[str, str]] = {  # colour, shape
    "plain": (BLUE, "o"), "self-speculative": (VERMILION, "s"), "speculative": (GREEN, "D"), "online": (PURPLE, "^"),
}  # fmt: skip
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "edgeskip",
    "text.parse_math": False,  # a name may hold dollars
    "font.family": "DejaVu Sans",  # matplotlib brings it
    "axes.edgecolor": SOFT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": SOFT, "ytick.color": SOFT,
    "hatch.linewidth": 1.0,
}  # fmt: skip


def need_matplotlib() -> None:
    """MissingExtraError where it is not installed."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plot")


@contextmanager
def plot_style() -> Iterator[None]:
    """Everything is drawn and saved within this."""
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a character that the font lacks: the reader's may have it
        yield


def new_figure(width: int, height: float) -> Figure:
    """An empty figure of this size in CSS pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def is_narrow(width: int) -> bool:
    return width < 600


def text_size(width: int) -> float:
    """Of the smallest text, in CSS pixels."""
    return 10.5 if is_narrow(width) else 11.5


def style_axes(panel: Axes, *, axis: Literal["x", "both"], width: int) -> None:
    """Only what is needed: a grid along `axis` behind the data, no frame."""
    panel.grid(axis=axis, color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.set_facecolor(PAPER)
    panel.spines[["top", "right", "left" if axis == "x" else "top"]].set_visible(False)
    panel.tick_params(labelsize=text_size(width), length=0 if axis == "x" else 3)


def legend_text(name: str) -> str:
    """The name as matplotlib's legends take it: they leave out what begins with _."""
    return f" {name}" if name.startswith("_") else name


def fit_text(text: str, pixels: float, size: float) -> str:
    """The text, shortened to about this many pixels at this font size."""
    from edgeskip.bench.analysis.formatting import truncate

    return truncate(text, max(8, int(pixels / (0.56 * size))))
