"""tools/benchmarks/README.md. Oracles: the folder, the results pages, and the command lines of what it names."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from edgeskip.cli.main import app

ROOT = Path(__file__).parents[3]
INDEX = ROOT / "tools" / "benchmarks" / "README.md"
ROWS = [line for line in INDEX.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
COMMANDS = [command for row in ROWS for command in re.findall(r"`((?:python|edgeskip|bash) [^`]+)`", row)]


def test_every_script_makes_a_table_and_every_page_has_a_row() -> None:
    text = INDEX.read_text(encoding="utf-8")
    for script in (ROOT / "tools" / "benchmarks").glob("*.py"):
        assert f"tools/benchmarks/{script.name}" in text, script.name
    for page in (ROOT / "docs" / "results").glob("*.md"):
        assert page.stem == "index" or f"(../../docs/results/{page.name})" in text, page.name


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", INDEX.read_text(encoding="utf-8")):
        assert (INDEX.parent / target).is_file(), target


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_accepted(command: str) -> None:
    """Parsed by what they name, not run."""
    program, *words = shlex.split(command)
    if program == "bash":
        assert (ROOT / words[0]).is_file()
        return
    found: Any = typer.main.get_command(app)
    name, context = "edgeskip", None
    if program == "python":
        script = ROOT / words.pop(0)
        assert script.is_file()
        module = importlib.import_module(script.stem)
        name = script.stem
        only = typer.Typer()
        only.command()(getattr(module, name, None) or module.bench_speculation)
        found = typer.main.get_command(only)
    while True:
        context = found.make_context(name, list(words), parent=context)
        if not isinstance(found, click.Group):
            return
        name, found, words = found.resolve_command(context, [*context._protected_args, *context.args])
