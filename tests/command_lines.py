"""A command line parsed as the `edgeskip` command parses it, without running anything."""

from __future__ import annotations

from typing import Any

import typer.main

from edgeskip.cli.main import app


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The path of the command that `words` name, and its parameters as the command line gives them.

    Anything that the command line does not accept raises click's own exception.
    """
    command: Any = typer.main.get_command(app)
    name, context, rest = "edgeskip", None, words
    path = []
    while True:
        context = command.make_context(name, list(rest), parent=context)
        path.append(name)
        if not hasattr(command, "resolve_command"):
            return " ".join(path), context.params
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
