"""`edgeskip sweep`: measures which early-exit draft is fastest on this device, and writes the best into the profile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgeskip.cli import messages
from edgeskip.cli.options import (
    MODEL,
    OUTPUT,
    SPECULATION,
    ChatOptions,
    Field,
    Json,
    Model,
    OptionalProfileArg,
    ProfileOption,
    Provider,
    Threads,
    one_profile,
    output_option,
)
from edgeskip.cli.progress import progress_bar
from edgeskip.core.lists import parse_names, parse_numbers
from edgeskip.core.terminal import print_json

if TYPE_CHECKING:
    from edgeskip.sweep.sweep import SweepResult


def sweep(
    profile: OptionalProfileArg = None,
    profile_option: ProfileOption = None,
    *,
    prompts: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Prompts: .jsonl, one per record, or text, one per file.", rich_help_panel=MODEL
        ),
    ],
    output: Annotated[Path, output_option("Folder for sweep.json, sweep.csv and sweep.png.", "FOLDER")],
    exit_layers: Annotated[
        str | None,
        typer.Option(
            metavar="N,…",
            help="Exit layers to try, e.g. 4,8,12.",
            show_default="those the profile calibrated",
            rich_help_panel=SPECULATION,
        ),
    ] = None,
    num_speculations: Annotated[
        str, typer.Option(metavar="N,…", help="Tokens drafted per round, to try.", rich_help_panel=SPECULATION)
    ] = "1,2,4,8",
    draft_vocab: Annotated[
        str,
        typer.Option(metavar="N,…", help="Draft vocabularies to try; all = every token.", rich_help_panel=SPECULATION),
    ] = "all,8192",
    model: Model = None,
    target: Annotated[Literal["onnx", "gguf"], typer.Option(help="Runtime to export for.")] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="As for export.", show_default="onnx: fp32; gguf: keep or f16"),
    ] = None,
    field: Field = None,
    limit: Annotated[
        int, typer.Option(metavar="N", help="Number of prompts, spread over the file.", rich_help_panel=MODEL)
    ] = 8,
    max_tokens: Annotated[int, typer.Option(metavar="N", help="Tokens to generate for each prompt.")] = 64,
    chat_option: ChatOptions = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompts, without the chat template.")] = False,
    threads: Threads = None,
    provider: Provider = "cpu",
    write: Annotated[
        bool | None,
        typer.Option(
            help="Write the best setting into the profile, unless it is a preset.",
            show_default="if it is faster than plain decoding",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Start again if --output has a sweep already.", rich_help_panel=OUTPUT),
    ] = False,
    json: Json = False,
) -> None:
    """Find the fastest early-exit draft on this device.

    Measures exit layer × draft vocabulary × γ against plain decoding of the same artifact; an interrupted sweep
    resumes. With --json: {"points": [{"exit_layer", "draft_vocab", "num_speculations", "speedup", "acceptance", …}],
    "best", "written"}.
    """
    from edgeskip.cli.chat_options import parse_chat_options
    from edgeskip.sweep.sweep import SweepOptions
    from edgeskip.sweep.sweep import sweep as run_sweep

    options = SweepOptions(
        model=model,
        target=target,
        precision=precision,
        field=field,
        limit=limit,
        max_tokens=max_tokens,
        chat_options=parse_chat_options(chat_option, raw=raw),
        raw=raw,
        threads=threads,
        provider=provider,
    )
    with progress_bar() as bar:
        result = run_sweep(
            one_profile(profile, profile_option),
            prompts,
            output,
            exit_layers=parse_numbers(exit_layers, "--exit-layers", least=1) if exit_layers else None,
            vocabularies=_vocabularies(draft_vocab),
            num_speculations=parse_numbers(num_speculations, "--num-speculations", least=1),
            options=options,
            overwrite=overwrite,
            progress=bar,
        )
    _write_files(result, output)
    written = (write or (write is None and result.best.faster)) and result.write_best()
    if json:
        from edgeskip.cli.views.sweep import as_row

        print_json(
            {
                "points": [as_row(point) for point in result.points],
                "best": as_row(result.best),
                "written": bool(written),
            }
        )
    else:
        _show(result, written=bool(written), may_write=write is not False)


def _write_files(result: SweepResult, output: Path) -> None:
    from edgeskip.cli.views.sweep import write_csv, write_heat_map
    from edgeskip.core.errors import MissingExtraError

    write_csv(result.points, output / "sweep.csv")
    title = f"{result.profile.model.name}, {result.options.target} {result.exports.precision}"
    try:
        write_heat_map(result.points, output / "sweep.png", title)
    except MissingExtraError as error:
        messages.note(f"no heat map: {error}")


def _show(result: SweepResult, *, written: bool, may_write: bool) -> None:
    from edgeskip.cli.views.sweep import points_table
    from edgeskip.cli.views.tables import show, show_line

    show(points_table(result.points))
    best = result.best
    if not best.faster:
        show_line("no setting is faster than plain decoding here: with γ auto these artifacts decode plainly")
    different = sum(point.prompts - point.identical for point in result.points)
    if different:
        show_line(
            f"{different} of {sum(point.prompts for point in result.points)} texts differ from plain decoding's in a "
            "token: batched verification rounds differently (edgeskip run --compare shows where, and how near the tie "
            "was)"
        )
    if written:
        show_line(f"written into {result.path}: exit layer {best.exit_layer}, γ {best.num_speculations}")
    elif may_write and not best.faster:
        show_line(f"not written into {result.path}; add --write to write it anyway")


def _vocabularies(text: str) -> tuple[int | None, ...]:
    names = parse_names(text, "--draft-vocab")
    return tuple(None if name == "all" else parse_numbers(name, "--draft-vocab", least=1)[0] for name in names)
