"""Options and arguments that several commands share, each declared once.

`edgeskip.cli.command` gives every command `--quiet` and `--verbose`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from edgeskip.cli import messages
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.paths import named_path

# The headings of the groups in a command's help, in the order in which they are printed.
MODEL = "Model and data"
SAMPLING = "Sampling and prompt"
SPECULATION = "Speculation"
HARDWARE = "Hardware"
OUTPUT = "Output"

TableFormat = Literal["md", "json", "jsonl", "csv"]
_FORMATS = get_args(TableFormat)
Target = Literal["onnx", "gguf", "onnx,gguf"]


def complete_artifact(incomplete: str) -> list[str]:
    """Return the artifact folders, the .gguf files and the folders to look into that `incomplete` may become."""
    return _complete_path(incomplete, (".gguf",))


def complete_profile(incomplete: str) -> list[str]:
    """Return the presets, the .json files and the folders to look into that `incomplete` may become."""
    from edgeskip.profiles.presets import ready_profiles

    presets = [name for name in ready_profiles() if name.startswith(incomplete)]
    return presets + _complete_path(incomplete, (".json",))


def complete_model(incomplete: str) -> list[str]:
    """Return the models that `edgeskip fetch` knows, the folders and the .gguf files that `incomplete` may become."""
    return complete_fetched(incomplete) + _complete_path(incomplete, (".gguf",))


def complete_fetched(incomplete: str) -> list[str]:
    """Return the models that `edgeskip fetch` knows and that begin with `incomplete`."""
    from edgeskip.profiles.registry import READY_MODELS

    return [name for name in READY_MODELS if name.startswith(incomplete)]


def _complete_path(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    folder, _, start = incomplete.rpartition("/")
    parent = f"{folder}/" if "/" in incomplete else ""
    try:
        with os.scandir(parent or ".") as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []
    names = [(entry, entry.name) for entry in found if entry.name.startswith(start) and not entry.name.startswith(".")]
    return [
        parent + name + ("/" if entry.is_dir() else "")
        for entry, name in names
        if entry.is_dir() or name.endswith(suffixes)
    ]


def one_profile(argument: str | None, option: str | None) -> str:
    """Return the profile that is named by position or by `--profile`.

    Raises:
        EdgeSkipError: If it is named by neither or by both.
    """
    if argument is not None and option is not None:
        raise EdgeSkipError(f"the profile is given twice, {argument:.60} and --profile {option:.60}; give it once")
    if argument is None and option is None:
        raise EdgeSkipError("no profile is given; name one, e.g. llama.json, or a preset (edgeskip fetch --list)")
    return str(option if argument is None else argument)


def output_option(help: str, metavar: str = "PATH") -> Any:
    """Return `--output`/`-o`, which is always a path. `help`: what is written there."""
    return typer.Option("--output", "-o", help=help, metavar=metavar, rich_help_panel=OUTPUT)


def split_old_format(output: str | None, form: str, formats: Sequence[str]) -> tuple[Path | None, str]:
    """Return the path and the form that are meant: `-o md` once chose the form.

    Args:
        output: What follows `-o`.
        form: What follows `--format`, or its default.
        formats: What `--format` takes.

    Raises:
        EdgeSkipError: If `output` is a form, but not one of these.
    """
    if output in _FORMATS and output not in formats:
        raise EdgeSkipError(f"--format {output} is unknown here; choose from {', '.join(formats)} (-o names a file)")
    if output in formats:
        messages.note(f"`-o {output}` is now spelled `--format {output}`; -o names a file")
        return None, str(output)
    return None if output is None else named_path(output), form


ProfileArg = Annotated[
    str,
    typer.Argument(
        metavar="PROFILE", help="Profile (llama.json), or the name of a preset.", autocompletion=complete_profile
    ),
]
OptionalProfileArg = Annotated[
    str | None,
    typer.Argument(
        metavar="PROFILE", help="Profile (llama.json), or the name of a preset.", autocompletion=complete_profile
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", metavar="PROFILE", help="Same as PROFILE above.", autocompletion=complete_profile),
]
ModelArg = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Name that `edgeskip fetch` knows, Hugging Face or PEFT folder, hub id, or .gguf file.",
        autocompletion=complete_model,
    ),
]
ArtifactArg = Annotated[
    Path,
    typer.Argument(
        parser=named_path,
        metavar="ARTIFACT",
        help="Exported artifact: a folder or a .gguf file.",
        autocompletion=complete_artifact,
    ),
]
ArtifactsArg = Annotated[
    list[Path],
    typer.Argument(
        parser=named_path,
        metavar="ARTIFACT",
        help="Exported artifacts: folders or .gguf files; the first is the reference.",
        autocompletion=complete_artifact,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Where the model is, if not where the profile says.",
        autocompletion=complete_model,
        rich_help_panel=MODEL,
    ),
]
Field = Annotated[
    str | None,
    typer.Option("--field", metavar="NAME", help="Field of .jsonl records that holds the text.", rich_help_panel=MODEL),
]
ChatOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--chat-option",
        metavar="NAME=VALUE",
        help="Variable of the chat template, e.g. enable_thinking=false; VALUE is JSON or text; repeatable.",
        rich_help_panel=SAMPLING,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        "-t",
        metavar="N",
        help="Number of threads.",
        show_default="physical cores",
        rich_help_panel=HARDWARE,
    ),
]
Provider = Annotated[
    str,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="Processor to run on: cpu, cuda, openvino, …; an error if it cannot be used.",
        rich_help_panel=HARDWARE,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print no progress and no notes on stderr.", rich_help_panel=OUTPUT)
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print more notes on stderr.", rich_help_panel=OUTPUT)]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.", rich_help_panel=OUTPUT)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --output.", rich_help_panel=OUTPUT)]
Format = Annotated[TableFormat, typer.Option("--format", help="Form of the table.", rich_help_panel=OUTPUT)]
