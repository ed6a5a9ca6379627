"""The losses of a run: a CSV that is written step by step, and the picture of it."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import TracebackType
from typing import TextIO

from edgeskip.core.errors import MissingExtraError
from edgeskip.core.files import replace_file
from edgeskip.core.whole_number import whole_number

_COLUMNS = ("step", "learning_rate", "part", "loss")


class LossTable:
    """`path` as a context: a line for each step and part of the loss (`loss` is the whole that descends).

    Lines after step `keep` are dropped first: a run that goes on from a checkpoint writes those again. With `write`
    False, as in all processes but one, the file is left alone.
    """

    def __init__(self, path: Path, *, keep: int = 0, write: bool = True) -> None:
        self._path, self._write = path, write
        self.rows: list[tuple[int, float, str, float]] = []
        if keep and path.exists():
            self.rows = [row for row in read_losses(path) if row[0] <= keep]
        self._file: TextIO | None = None

    def __enter__(self) -> LossTable:
        if self._write:
            text = io.StringIO()
            writer = csv.writer(text)
            writer.writerow(_COLUMNS)
            writer.writerows(map(_shown, self.rows))
            replace_file(self._path, text.getvalue().encode())
            self._file = self._path.open("a", encoding="utf-8", newline="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, step: int, learning_rate: float, losses: dict[str, float]) -> None:
        """The losses of `step`, counted from 1, in nats."""
        rows = [(step, learning_rate, part, loss) for part, loss in losses.items()]
        self.rows += rows
        if self._file is not None:
            csv.writer(self._file).writerows(map(_shown, rows))
            self._file.flush()


def _shown(row: tuple[int, float, str, float]) -> tuple[int, str, str, str]:
    return row[0], f"{row[1]:.6g}", row[2], f"{row[3]:.6g}"


def read_losses(path: Path) -> list[tuple[int, float, str, float]]:
    """(step, learning rate, part, loss) of a run's CSV; a line that a kill left unfinished is dropped."""
    rows = []
    for line in path.read_bytes().decode("utf-8", "replace").splitlines():
        try:
            step, rate, part, loss = next(csv.reader([line]))
            row = (int(step), float(rate), part, float(loss))
        except (ValueError, csv.Error, StopIteration):  # the heading, or what a kill or a bad disk left of a line
            continue
        if 0 < row[0] < 10**9 and 0 < len(part) < 40 and part.isprintable() and not max(row[1], abs(row[3])) > 1e30:
            rows.append(row)
    return rows


def plot_losses(rows: list[tuple[int, float, str, float]], path: Path, title: str) -> None:
    """Write a PNG of the losses: a line for each part, faint as measured and strong as a running mean."""
    try:
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "train") from error

    parts: dict[str, list[tuple[int, float]]] = {}
    for step, _, part, loss in rows:
        if part != "loss":
            parts.setdefault(part, []).append((step, loss))
    figure = Figure(figsize=(9, 5), dpi=140, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = sorted(parts, key=_depth)
    for number, name in enumerate(names):
        color = "#222222" if name == "last" else colormaps["viridis"](number / max(len(names), 1))
        steps, losses = zip(*parts[name], strict=True)
        axes.plot(steps, losses, color=color, alpha=0.2, linewidth=0.8)
        axes.plot(steps, _running_mean(losses), color=color, linewidth=1.6, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=11, parse_math=False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Title": title})
    replace_file(path, data.getvalue())


def _depth(name: str) -> tuple[bool, int]:
    """Return where a part of the loss stands: exits by their layer, the last layer after them."""
    return name == "last", whole_number(name.rpartition(" ")[2]) or 0


def _running_mean(losses: tuple[float, ...], share: float = 0.1) -> list[float]:
    """Exponential mean, each new value counting `share` (more at the start)."""
    mean, found = 0.0, []
    for count, loss in enumerate(losses, 1):
        mean += max(share, 1 / count) * (loss - mean)
        found.append(mean)
    return found
