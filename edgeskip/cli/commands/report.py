"""`edgeskip bench report`: one self-contained page about benchmark runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeskip.cli.options import OUTPUT, Json, Overwrite, output_option
from edgeskip.core.paths import named_path
from edgeskip.core.terminal import print_json


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            parser=named_path, metavar="RUN", help="Files that `edgeskip bench run` wrote; several appear side by side."
        ),
    ],
    output: Annotated[Path, output_option("Page to write, e.g. report.html.", "FILE")],
    png: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write the figures as PNGs too, e.g. for a README.", rich_help_panel=OUTPUT
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write an HTML page about benchmark runs.

    Tables, figures and conditions in one file that needs no network. With --json: {"written": [path]}.
    """
    from edgeskip.bench.report.page import write_report
    from edgeskip.cli.views.tables import show_line

    written = write_report(runs, output, png_folder=png, overwrite=overwrite)
    if json:
        print_json({"written": [str(path) for path in written]})
        return
    for path in written:
        show_line(f"written: {path}")
