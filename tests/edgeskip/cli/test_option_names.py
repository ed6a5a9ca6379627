"""Messages name options that the command has. Oracle: the commands' own parameters, as typer reads them.

Every `--option` in the text of an EdgeSkipError must be one of a command that the module serves, and what follows
`edgeskip COMMAND` in a message must be an option of that command.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from edgeskip.cli.main import _in_options, app

ROOT = Path(__file__).parents[3]


def _options(command: Any) -> dict[str, set[str]]:
    """The options by command; those of a group are of all its commands together."""
    found = {}
    for name, one in command.commands.items():
        below = _options(one) if hasattr(one, "commands") else {}
        own = {opt for parameter in one.params for opt in (*parameter.opts, *parameter.secondary_opts)}
        found |= {f"{name} {inner}": options for inner, options in below.items()}
        found[name] = own.union(*below.values())
    return found


OPTIONS = _options(typer.main.get_command(app))
# Which commands a module's errors are read by; the first prefix that fits counts.
SERVES = (
    ("edgeskip/cli/commands/evaluate", ("eval",)),
    ("edgeskip/cli/commands/profile_device", ("profile-device",)),
    ("edgeskip/bench/analysis/compare", ("bench compare",)),
    ("edgeskip/bench/report/", ("bench report", "bench run")),
    ("edgeskip/bench/", ("bench",)),
    ("edgeskip/evaluation/", ("eval",)),
    ("edgeskip/training/", ("train",)),
    ("edgeskip/calibration/", ("calibrate", "plan", "train", "sweep")),
    ("edgeskip/planning/", ("plan", "export")),
    ("edgeskip/sweep", ("sweep",)),
    ("edgeskip/profiling/", ("profile-device", "export")),
    ("exporters/", ("export", "sweep", "plan", "calibrate", "train")),
    ("runtime/", ("run", "eval", "bench", "sweep", "profile-device", "export")),
)
# Options of other programs that messages tell to run.
OTHERS = re.compile(r"(pip install|llama-gguf-split|ensurepip|git|CMAKE_ARGS=|make |cmake |--no-cache-dir|doctor)[^;]*")


def messages(path: Path) -> Iterator[str]:
    """The text of every EdgeSkipError that a module makes, what is computed left out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "EdgeSkipError":
            yield "".join(part for arg in node.args for part in _texts(arg))


def _texts(node: ast.AST) -> Iterator[str]:
    """The string constants in an expression, in order, but for the formats of what is put in."""
    if isinstance(node, ast.Constant):
        yield node.value if isinstance(node.value, str) else "…"
    children = [node.value] if isinstance(node, ast.FormattedValue) else ast.iter_child_nodes(node)
    for child in children:
        yield from _texts(child)


def commands_of(path: Path) -> tuple[str, ...]:
    name = path.relative_to(ROOT).as_posix()
    if (found := next((commands for prefix, commands in SERVES if name.startswith(prefix)), None)) is not None:
        return found
    command = path.stem.replace("_", "-")
    if name.startswith("edgeskip/cli/commands/") and command in OPTIONS:
        return (command,)
    return tuple(OPTIONS)


def _sources() -> list[Path]:
    folders = ("edgeskip", "exporters", "models", "runtime")
    return sorted(path for name in folders for path in (ROOT / name).rglob("*.py"))


def test_there_are_messages_to_look_at() -> None:
    assert sum(1 for path in _sources() for _ in messages(path)) > 300


@pytest.mark.parametrize("path", _sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_options_in_messages_exist(path: Path) -> None:
    served = commands_of(path)
    for message in messages(path):
        ours = OTHERS.sub("", message)
        for match in re.finditer(
            r"edgeskip ((?:bench (?:run|serve|report|compare)|[a-z][a-z-]+))((?:(?!edgeskip )[^:;])*)", ours
        ):
            assert match[1] in OPTIONS, f"no command {match[1]}: {message}"
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", match[2]):
                assert option in OPTIONS[match[1]], f"edgeskip {match[1]} has no {option}: {message}"
        alone = re.sub(r"edgeskip (?:bench (?:run|serve|report|compare)|[a-z][a-z-]+)(?:(?!edgeskip )[^:;])*", "", ours)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", alone):
            known = set().union(*(OPTIONS[command] for command in served))
            assert option in known, f"{', '.join(served)} have no {option}: {message}"


@pytest.mark.parametrize(
    ("command", "line", "shown"),
    [
        ("run", "max_tokens must be at least 1", "--max-tokens must be at least 1"),
        ("run", "threads must be a whole number", "--threads must be a whole number"),
        ("sweep", "num_speculations must be 1 … 16", "--num-speculations must be 1 … 16"),
        ("run", "--max-tokens must be at least 1", "--max-tokens must be at least 1"),
        ("plan", "max_tokens must be at least 1", "max_tokens must be at least 1"),  # plan has none
        ("run", "messages must be a list", "messages must be a list"),
    ],
)
def test_arguments_are_called_as_the_command_does(
    command: str, line: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["edgeskip", command, "x"])
    assert _in_options(line) == shown
