"""`edgeskip bench compare`: two benchmark runs as ratios; exit code 1 if something got slower."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edgeskip.cli.options import OUTPUT, Json, output_option, split_old_format
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.paths import named_path
from edgeskip.core.terminal import print_json

if TYPE_CHECKING:
    from edgeskip.bench.analysis.compare import RunComparison


def compare(
    before: Annotated[
        Path,
        typer.Argument(parser=named_path, metavar="A", help="Run to compare with, as `edgeskip bench run` wrote it."),
    ],
    after: Annotated[Path, typer.Argument(parser=named_path, metavar="B", help="Run that may be better or worse.")],
    fail_above: Annotated[
        str,
        typer.Option(
            metavar="SHARE",
            help="Exit 1 if a speed is worse by more than this and its 95 % interval excludes no change; runs of one "
            "round have no interval.",
        ),
    ] = "5%",
    measure: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this measure, e.g. tg128; repeatable.", show_default="all"),
    ] = None,
    other_device: Annotated[
        bool,
        typer.Option("--other-device", help="Compare even if the machines differ; rows match by kind of device."),
    ] = False,
    output: Annotated[str | None, output_option("Write the comparison there instead of printing it.", "FILE")] = None,
    format: Annotated[
        Literal["md", "json"], typer.Option("--format", help="Form of the table.", rich_help_panel=OUTPUT)
    ] = "md",
    json: Json = False,
) -> None:
    """Compare two benchmark runs row by row.

    Ratios above 1 are better; pp, tg, TTFT, TPOT and ITL p50 count as speeds. With --json (as with --format json):
    {"changes": [{"key", "before", "after", "ratio", …}], "only_before", "only_after", "differences", "fail_above",
    "regressions"}.
    """
    from edgeskip.bench.analysis.compare import compare_runs
    from edgeskip.bench.runner.run_file import read_run
    from edgeskip.core.files import replace_file

    bound = _share(fail_above)
    path, form = split_old_format(output, "json" if json else format, ("md", "json"))
    found = compare_runs(read_run(before), read_run(after), measures=measure or (), other_device=other_device)
    if path is not None:
        from edgeskip.cli.views.compare import as_markdown

        text = dumps(_as_json(found, bound)) if form == "json" else as_markdown(found, bound)
        replace_file(path, (text + "\n").encode())
    elif form == "json":
        print_json(_as_json(found, bound))
    else:
        from edgeskip.cli.views.compare import show_comparison

        show_comparison(found, bound)
    if found.regressions(bound):
        raise typer.Exit(1)


def _share(text: str) -> float:
    """Return the share that `5%` or `0.05` means."""
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise EdgeSkipError(f"--fail-above {text} is not a share from 0 to 1; give one like 5% or 0.05")
    return value


def _as_json(found: RunComparison, bound: float) -> dict[str, Any]:
    from dataclasses import asdict

    data = asdict(found)
    data["fail_above"] = bound
    data["regressions"] = [asdict(change.key) for change in found.regressions(bound)]
    return data
