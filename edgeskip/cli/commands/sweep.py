"""`edgeskip sweep`: measures which early-exit draft is fastest on this device, and writes the best into the profile."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgeskip.sweep.run import SweepGrid, SweepPoint


def sweep(
    profile: Annotated[str, typer.Option(help="A profile (llama.json), or the name of one that ships.")],
    prompts: Annotated[Path, typer.Option(help="Prompts: .jsonl, a record each, or text, one prompt a file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for sweep.json, sweep.csv and sweep.png.")],
    exit_layers: Annotated[
        str | None, typer.Option(help="Exit layers to try, as 4,8,12.", show_default="those the profile calibrated")
    ] = None,
    num_speculations: Annotated[str, typer.Option(help="Tokens drafted a round to try.")] = "1,2,4,8",
    draft_vocab: Annotated[str, typer.Option(help="Draft vocabularies to try; all = the whole one.")] = "all,8192",
    model: Annotated[str | None, typer.Option(help="The model, where it is not where the profile says.")] = None,
    target: Annotated[str, typer.Option(help="onnx or gguf.")] = "onnx",
    precision: Annotated[
        str | None, typer.Option(help="As for export.", show_default="onnx: fp32; gguf: keep or f16")
    ] = None,
    field: Annotated[str | None, typer.Option(help="Field of .jsonl records that holds the prompt.")] = None,
    limit: Annotated[int, typer.Option(help="Prompts to use, spread over the file.")] = 8,
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate for each.")] = 64,
    chat_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Tell the chat template, as enable_thinking=false; repeatable."),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompts, without the chat template.")] = False,
    threads: Annotated[int | None, typer.Option(help="Threads to compute with.", show_default="physical cores")] = None,
    provider: Annotated[str, typer.Option(help="Processor to run on: cpu, cuda, …")] = "cpu",
    write: Annotated[
        bool | None,
        typer.Option(
            help="Write the best setting into the profile, unless it ships.",
            show_default="if it is faster than plain decoding",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin again where -o has a sweep already.")] = False,
) -> None:
    """Measure early-exit speculation: exit layer × draft vocabulary × γ, against plain decoding, on this device."""
    from edgeskip.calibration.corpus import read_corpus
    from edgeskip.cli.chat_options import parse_chat_options
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.core.files import named_instead
    from edgeskip.core.locks import hold
    from edgeskip.profiles.schema import locate_profile, read_profile
    from edgeskip.runtime.session import load
    from edgeskip.runtime.speculation.policy import Speculation
    from edgeskip.sweep.exports import Exports
    from edgeskip.sweep.run import SweepGrid, SweepLog, best_of, measure

    path = locate_profile(profile)
    read = read_profile(path)
    layers = _numbers("--exit-layers", exit_layers) if exit_layers else tuple(found.layer for found in read.exits)
    if not layers:
        raise EdgeSkipError(
            "the profile has no calibrated exits: give --exit-layers, or run  edgeskip calibrate --exits 4,8,12"
        )
    grid = SweepGrid(layers, _vocabularies(draft_vocab), _numbers("--num-speculations", num_speculations))
    for gamma in grid.num_speculations:
        Speculation("model", gamma)  # refuses what cannot be
    options = parse_chat_options(chat_option or [])
    if raw and options:
        raise EdgeSkipError("--chat-option is for the chat template, which --raw leaves out: give one of the two")
    if limit < 1 or max_tokens < 2:
        raise EdgeSkipError("--limit must be at least 1 and --max-tokens at least 2")
    corpus = read_corpus([prompts], field)
    texts = list(corpus.documents[:: max(1, len(corpus.documents) // limit)][:limit])
    exports = Exports(path, read, model, target, precision)
    exports.check(grid)
    settings: dict[str, Any] = {
        "model": read.model.fingerprint, "profile": read.vectors.sha256, "target": target,
        "precision": exports.precision, "prompts": corpus.files[0].sha256, "limit": len(texts),
        "max_tokens": max_tokens, "raw": raw, "threads": threads, "provider": provider,
        "num_speculations": grid.num_speculations,
    }  # fmt: skip
    if options:
        settings["chat_options"] = options
    hold(output)
    output.mkdir(parents=True, exist_ok=True)
    log = SweepLog(output / "sweep.json", settings, overwrite=overwrite)
    todo = list(log.missing(grid))
    with _progress(len(todo) * (1 + len(texts) * (1 + len(grid.num_speculations)))) as advance:
        for layer, vocabulary in todo:
            advance(f"exporting E = {layer}")
            with (
                tempfile.TemporaryDirectory(prefix="edgeskip-sweep-") as scratch,
                named_instead(Path(scratch), Path(f"the artifact of exit layer {layer}")),
            ):
                artifact = exports.export(layer, vocabulary, Path(scratch))
                with load(artifact, provider=provider, threads=threads) as session:
                    encoded = [session.encode(text, chat=False if raw else None, chat_kwargs=options) for text in texts]
                    step = partial(advance, f"E = {layer}, vocabulary {vocabulary or 'all'}")
                    gammas = grid.num_speculations
                    cells = measure(session, layer, vocabulary, gammas, encoded, max_tokens=max_tokens, advance=step)
                    log.add(cells)
    cells = [cell for cell in log.cells if (cell.exit_layer, cell.draft_vocab) in grid.artifacts]
    _show(cells, grid, output, f"{read.model.name}, {target} {exports.precision}")
    best = best_of(cells)
    if write is None and not best.faster:
        _print(f"not written into {path}; --write does it all the same")
    elif write is not False and exports.writable:
        exports.write_best(best, threads, provider)
        _print(f"written into {path}: exit layer {best.exit_layer}, γ {best.num_speculations}")


def _show(cells: list[SweepPoint], grid: SweepGrid, output: Path, title: str) -> None:
    from edgeskip.cli.views.sweep import table, write_csv, write_heat_map
    from edgeskip.core.errors import MissingExtraError
    from edgeskip.core.terminal import Console
    from edgeskip.sweep.run import best_of

    write_csv(cells, output / "sweep.csv")
    try:
        write_heat_map(cells, output / "sweep.png", title)
    except MissingExtraError as error:
        _print(f"no heat map: {error}")
    Console(highlight=False).print(table(cells))
    best = best_of(cells)
    if not best.faster:
        _print("no setting is faster than plain decoding here: with γ auto these artifacts decode plainly")
    different = sum(cell.prompts - cell.identical for cell in cells)
    if different:
        _print(
            f"{different} of {sum(cell.prompts for cell in cells)} texts differ from plain decoding's in a token: "
            "batched verification rounds differently (edgeskip run --compare shows where and how near the tie was)"
        )


def _numbers(option: str, text: str) -> tuple[int, ...]:
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.core.whole_number import whole_numbers

    numbers = whole_numbers(text)
    if numbers is None or 0 in numbers:
        raise EdgeSkipError(f"{option} {text:.60} is no list of numbers: give some as in 4,8,12")
    return tuple(dict.fromkeys(numbers))


def _vocabularies(text: str) -> tuple[int | None, ...]:
    names = [name.strip() for name in text.split(",")]
    return tuple(None if name == "all" else _numbers("--draft-vocab", name)[0] for name in dict.fromkeys(names))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    from edgeskip.core.progress import progress_display

    with progress_display() as shown:
        done = 0

        def advance(name: str) -> None:
            nonlocal done
            shown.update("sweeping", done, total, name)  # what begins, so `done` of them are behind
            done += 1

        yield advance
        shown.update("sweeping", total, total)


def _print(line: str) -> None:
    from edgeskip.core.terminal import Console

    Console(highlight=False, markup=False, soft_wrap=True).print(line)
