"""How every command is registered: its options in groups, `--quiet` and `--verbose`, and old spellings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from edgeskip.cli import messages
from edgeskip.cli.options import HARDWARE, MODEL, OUTPUT, SAMPLING, SPECULATION, Quiet, Verbose
from edgeskip.core.errors import COMMAND_LINE, EdgeSkipError

_VALUE_ERRORS = {  # what typer and pydantic say, and what we say
    r"^Value error, ": "",
    r"^Input should be a valid integer.*": "the value is not a whole number",
    r"^Input should be a valid number.*": "the value is not a number",
    r"^Input should be ": "the value must be ",
    r" is not one of (.*[^.])\.?$": r" is unknown; choose from \1",
}
_VALUE = re.compile(r"<(?:list\[)?([^<>\]]+)\]?>$")
_VALUE_NAMES = {"int": "N", "int range": "N", "float": "X", "float range": "X", "str": "TEXT", "path": "PATH"}


def _plainly(message: str) -> str:
    for pattern, words in _VALUE_ERRORS.items():
        message = re.sub(pattern, words, message)
    return message


def _value_name(match: re.Match[str]) -> str:
    """Return N for `<int>` and so on, `[md|csv]` for choices."""
    return _VALUE_NAMES.get(match[1].lower()) or f"[{match[1]}]"


def _argument_name(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


_ORDER = ("Arguments", MODEL, "Options", SAMPLING, SPECULATION, HARDWARE)


class Command(TyperCommand):
    """A command whose help lists its options in groups, in plain text: importing rich would take longer."""

    def make_context(self, *args: Any, **values: Any) -> Any:
        """Parse the words; a value that an option cannot have is an error of one line, as any other.

        Raises:
            EdgeSkipError: If an option or argument has such a value.
        """
        try:
            return super().make_context(*args, **values)
        except typer.BadParameter as error:
            option = next((opt for opt in getattr(error.param, "opts", ()) if opt.startswith("--")), None)
            if not error.message or option is None:  # an argument that is missing: the usage line says more
                raise
            raise EdgeSkipError(f"{option}: {_plainly(error.message)}") from None

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows the command in the usage line: `[OPTIONS] PROFILE`, an ellipsis for several."""
        pieces = ["[OPTIONS]"]
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "argument":
                name = _argument_name(parameter) + ("…" if parameter.nargs != 1 else "")
                pieces.append(name if parameter.required else f"[{name}]")
        return pieces

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group of options."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                is_argument = parameter.param_type_name == "argument"
                left = _argument_name(parameter) if is_argument else _VALUE.sub(_value_name, record[0])
                usual = "Arguments" if is_argument else "Options"
                title = getattr(parameter, "rich_help_panel", None) or usual
                groups.setdefault(title, []).append((left, record[1].replace("\\[", "[")))  # typer 0.19 escapes it
        for title in sorted(groups, key=_place):
            with formatter.section(title):
                formatter.write_dl(groups[title])


def _place(title: str) -> int:
    """Return where a group comes: those of one command only before the hardware, the output last."""
    if title == OUTPUT:
        return len(_ORDER) + 1
    if title not in _ORDER:
        return _ORDER.index(HARDWARE)
    return _ORDER.index(title) + (title == HARDWARE)


class CommandGroup(TyperGroup):
    """A group of commands whose help lists them under headings."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each heading."""
        commands = [(name, self.commands[name]) for name in self.list_commands(ctx) if not self.commands[name].hidden]
        widest = max(len(name) for name, _ in commands)
        headings: dict[str, list[tuple[str, str]]] = {}
        for name, command in commands:
            title = getattr(command, "rich_help_panel", None) or "Commands"
            line = command.get_short_help_str(limit=formatter.width - 6 - widest)
            headings.setdefault(title, []).append((name.ljust(widest), line))
        for title, rows in headings.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def with_verbosity(function: Callable[..., None]) -> Callable[..., None]:
    """Return the command with `--quiet` and `--verbose`, which mean the same in all of them."""
    parameters = _typed_parameters(function)
    for name, kind in (("quiet", Quiet), ("verbose", Verbose)):
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind))

    @wraps(function)
    def command(*, quiet: bool = False, verbose: bool = False, **values: Any) -> None:
        level = messages.Verbosity.QUIET if quiet else messages.Verbosity(1 + verbose)
        messages.begin(level)
        before = COMMAND_LINE.set(True)
        try:
            function(**values)
        finally:
            COMMAND_LINE.reset(before)

    _set_parameters(command, parameters)
    return command


def takes_options_of(base: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator for a command that takes the arguments and options of `base` besides its own.

    The command gets those of `base` in its `**` parameter.
    """

    def extend(function: Callable[..., None]) -> Callable[..., None]:
        parameters = [
            parameter
            for one in (base, function)
            for parameter in _typed_parameters(one)
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]

        @wraps(function)
        def command(**values: Any) -> None:
            function(**values)

        _set_parameters(command, parameters)
        return command

    return extend


def _typed_parameters(function: Callable[..., None]) -> list[inspect.Parameter]:
    """Return the parameters with their annotations evaluated."""
    hints = get_type_hints(function, include_extras=True)
    return [
        parameter.replace(annotation=hints[parameter.name])
        for parameter in inspect.signature(function).parameters.values()
    ]


def _set_parameters(function: Callable[..., None], parameters: list[inspect.Parameter]) -> None:
    """Let typer see these parameters."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def register(
    app: typer.Typer,
    function: Callable[..., None],
    name: str | None = None,
    *,
    heading: str | None = None,
    hidden: bool = False,
) -> None:
    """Add a command to `app`. `name`: as typed, if it is not the function's; `heading`: where the help lists it."""
    app.command(name, cls=Command, rich_help_panel=heading, hidden=hidden)(with_verbosity(function))


def old_spelling(function: Callable[..., None], new: str) -> Callable[..., None]:
    """Return a command that says how it is spelled now, and does the same."""

    @wraps(function)
    def command(*args: Any, **values: Any) -> None:
        messages.note(f"this command is now spelled `{new}`")
        function(*args, **values)

    return command
