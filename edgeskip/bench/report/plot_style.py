"""What all figures share: colors, sizes, axes, legends. A figure is drawn for a width in CSS pixels, 1 px = 1 pt.

The colors are Okabe and Ito's, which stay distinct under every common color blindness; the page maps each to a CSS
variable, so that the dark page has others.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from edgeskip.bench.analysis.formatting import truncate
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
STRATEGIES: dict[str, tuple[str, str]] = {  # color, shape
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
    """Raise MissingExtraError if matplotlib is not installed."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plot")


@contextmanager
def plot_style() -> Iterator[None]:
    """Context in which every figure is drawn and saved."""
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a character that the font lacks: the reader's may have it
        yield


def new_figure(width: int, height: float) -> Figure:
    """Return an empty figure of this size in CSS pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def add_axes(
    figure: Figure, left: float, top: float, width: float, height: float, *, grid: Literal["x", "both"]
) -> Axes:
    """Add axes at a place in CSS pixels, measured from the top left: a grid behind the data and no frame."""
    across, down = 72 * figure.get_figwidth(), 72 * figure.get_figheight()
    panel = figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
    panel.grid(axis=grid, color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.set_facecolor(PAPER)
    panel.spines[["top", "right", "left" if grid == "x" else "top"]].set_visible(False)
    panel.tick_params(labelsize=text_size(across), length=0 if grid == "x" else 3)
    return panel


def add_legend(figure: Figure, handles: Sequence[Any], columns: int = 1, **more: Any) -> None:
    """Add a legend at the top left."""
    size = text_size(72 * figure.get_figwidth())
    options = {"loc": "upper left", "frameon": False, "borderaxespad": 0.2, "ncols": columns, "fontsize": size}
    figure.legend(handles=handles, **options, **more)


def is_narrow(width: float) -> bool:
    """Return whether a figure of this width is for a phone."""
    return width < 600


def text_size(width: float) -> float:
    """Return the size of the smallest text, in CSS pixels."""
    return 10.5 if is_narrow(width) else 11.5


def legend_text(name: str) -> str:
    """Return the name as matplotlib's legends take it: they leave out what begins with _."""
    return f" {name}" if name.startswith("_") else name


def fit_text(text: str, pixels: float, size: float) -> str:
    """Shorten the text to about this many pixels at this font size."""
    return truncate(text, max(8, int(pixels / (0.56 * size))))
