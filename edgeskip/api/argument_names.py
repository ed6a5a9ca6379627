"""Errors that name options, as the command line does, name a function's arguments if a program calls it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from edgeskip.core.errors import COMMAND_LINE, EdgeSkipError

P = ParamSpec("P")
R = TypeVar("R")
_OPTION = re.compile(
    r"(?P<command>(?<![\w./-])(?:edgeskip|pip) [a-z][^;:,()]*)"  # to be typed in a shell: stays as it is
    r"|(?<![\w-])(?:--(?P<long>[a-z][a-z-]*)|-o)(?![\w-])"
)


def names_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function`, whose EdgeSkipErrors say `max_kl` instead of `--max-kl`, unless a command runs."""
    parameters = inspect.signature(function).parameters
    output = "output" if "output" in parameters else "path"

    def argument(match: re.Match[str]) -> str:
        if match["command"]:
            return match[0]
        name = output if match["long"] in (None, "output") else match["long"].replace("-", "_")
        if name in parameters:
            return f"{name}=True" if parameters[name].default is False else name
        if name.removeprefix("no_") in parameters:
            return f"{name.removeprefix('no_')}=False"
        return match[0]

    @wraps(function)
    def renamed(*args: P.args, **options: P.kwargs) -> R:
        try:
            return function(*args, **options)
        except EdgeSkipError as error:
            if not COMMAND_LINE.get():
                error.args = tuple(_OPTION.sub(argument, a) if isinstance(a, str) else a for a in error.args)
            raise

    return renamed
