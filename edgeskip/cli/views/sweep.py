"""How a sweep is shown: a table, a CSV file, a heat map."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from edgeskip.cli.views.tables import table
from edgeskip.core.errors import MissingExtraError
from edgeskip.core.files import replace_file
from edgeskip.sweep.run import SweepPoint, best_of

COLUMNS = (
    "exit_layer", "draft_vocab", "num_speculations", "prompts", "tokens", "tokens_per_s", "plain_tokens_per_s",
    "speedup", "drafted", "accepted", "acceptance", "identical",
)  # fmt: skip


def points_table(cells: Sequence[SweepPoint]) -> Table:
    """Return a row for each exit layer and vocabulary, a column for each γ: speedup over plain decoding, acceptance."""
    gammas = sorted({cell.num_speculations for cell in cells})
    columns = (">exit layer", ">draft vocabulary", *(f">γ = {gamma}" for gamma in gammas))
    result = table(*columns, title="tokens/s over plain decoding (accepted of drafted)")
    best = best_of(cells)
    for layer, vocabulary in dict.fromkeys((cell.exit_layer, cell.draft_vocab) for cell in cells):
        row: list[str | Text] = [str(layer), _name(vocabulary)]
        for gamma in gammas:
            found = _find(cells, layer, vocabulary, gamma)
            text = f"{found.speedup:.2f}× ({found.acceptance:.0%})" if found else ""
            row.append(Text(text, style="bold") if found is best else text)
        result.add_row(*row)
    return result


def as_row(cell: SweepPoint) -> dict[str, Any]:
    """Return the columns of one setting."""
    return {column: getattr(cell, column) for column in COLUMNS}


def write_csv(cells: Sequence[SweepPoint], path: Path) -> None:
    """Write a line for each setting; an empty draft_vocab is the whole vocabulary."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(as_row(cell).values() for cell in cells)
    replace_file(path, text.getvalue().encode())


def write_heat_map(cells: Sequence[SweepPoint], path: Path, title: str) -> None:
    """Write a PNG: exit layer by γ, a panel for each vocabulary, colored by speedup; 1.0 is white."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.colors import TwoSlopeNorm
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "plot") from error

    gammas = sorted({cell.num_speculations for cell in cells})
    layers = sorted({cell.exit_layer for cell in cells})
    vocabularies = list(dict.fromkeys(cell.draft_vocab for cell in cells))
    speeds = [cell.speedup for cell in cells]
    norm = TwoSlopeNorm(1.0, min([0.9, *speeds]), max([1.1, *speeds]))
    figure = Figure(
        figsize=(1.5 + 3.2 * len(vocabularies), 1.6 + 0.5 * len(layers)), dpi=160, layout="constrained",
        facecolor="white",
    )  # fmt: skip
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, len(vocabularies), squeeze=False, sharey=True)[0]
    for panel, vocabulary in zip(panels, vocabularies, strict=True):
        found = [[_find(cells, layer, vocabulary, gamma) for gamma in gammas] for layer in layers]
        values = [[cell.speedup if cell else float("nan") for cell in row] for row in found]
        image = panel.imshow(values, norm=norm, cmap="PuOr_r", aspect="auto")
        panel.set(
            title=f"{_name(vocabulary)} draft tokens", xlabel="num_speculations γ",
            xticks=range(len(gammas)), xticklabels=gammas, yticks=range(len(layers)), yticklabels=layers,
        )  # fmt: skip
        for y, row in enumerate(found):
            for x, cell in enumerate(row):
                if cell:
                    label = f"{cell.speedup:.2f}\n{cell.acceptance:.0%}"
                    panel.text(x, y, label, ha="center", va="center", fontsize=7, color="#222222")
    panels[0].set_ylabel("exit layer E")
    figure.colorbar(image, ax=list(panels), label="tokens/s over plain decoding")
    figure.suptitle(title, fontsize=11, color="#222222", parse_math=False)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Title": title})
    replace_file(path, data.getvalue())


def _find(cells: Sequence[SweepPoint], layer: int, vocabulary: int | None, gamma: int) -> SweepPoint | None:
    wanted = (layer, vocabulary, gamma)
    return next((c for c in cells if (c.exit_layer, c.draft_vocab, c.num_speculations) == wanted), None)


def _name(vocabulary: int | None) -> str:
    return "all" if vocabulary is None else str(vocabulary)
