"""`edgeskip report`: one self-contained page on what was benched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeskip.core.named_path import named_path


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(parser=named_path, help="Files that edgeskip bench wrote; several are laid side by side."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write, as report.html.")],
    png: Annotated[Path | None, typer.Option(help="Folder for the figures as PNGs too, e.g. for a README.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write one HTML page on benchmark runs: tables, figures, conditions; it needs no network and no other file."""
    from edgeskip.bench.report.page import write_report
    from edgeskip.core.terminal import Console

    written = write_report(runs, output, png_folder=png, overwrite=overwrite)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for path in written:
        console.print(f"written: {path}")
