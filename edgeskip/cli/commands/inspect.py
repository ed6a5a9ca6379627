"""`edgeskip inspect`: shows what a profile, an artifact or a GGUF file holds, and draws a profile's similarities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeskip.cli import messages
from edgeskip.cli.options import OUTPUT, Json, complete_artifact, complete_profile
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.terminal import print_json


def _complete(incomplete: str) -> list[str]:
    return list(dict.fromkeys(complete_profile(incomplete) + complete_artifact(incomplete)))


def inspect(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PROFILE|ARTIFACT",
            help="Profile (llama.json), name of a preset, artifact folder or .gguf file.",
            autocompletion=_complete,
        ),
    ],
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw the profile's similarity per layer into a .png, .svg or .pdf file.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    verify: Annotated[bool, typer.Option(help="Compare the sha256 of each file of an artifact.")] = True,
    json: Json = False,
) -> None:
    """Show what a profile or an artifact contains.

    Exits 2 if a file is damaged or missing. With --json: {"kind": "profile", "artifact" or "gguf", "path", "label",
    "problem", …} with all fields of the profile or the manifest.
    """
    from edgeskip.cli.views.inspection import ProfileReport, inspect_path

    report = inspect_path(path, verify=verify)
    if plot is not None:
        if not isinstance(report, ProfileReport):
            raise EdgeSkipError(
                f"{path} is not a profile, so --plot has no similarities to draw; run  "
                f"edgeskip inspect PROFILE --plot {plot}  on the profile it was exported from"
            )
        from edgeskip.cli.views.similarity_plot import plot_similarity

        plot_similarity(report.profile, plot)
        messages.status(f"edgeskip: wrote {plot}")
    if json:
        print_json(report.as_json(), indent=2)
    else:
        from edgeskip.cli.views.inspect_tables import show_report

        show_report(report)
    if report.problem is not None:
        raise EdgeSkipError(report.problem)
