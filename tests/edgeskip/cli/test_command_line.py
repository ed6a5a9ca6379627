"""What every command has in common: help that fits, --quiet, --verbose, --json, old spellings, completion.

Oracle: the commands as typer registers them, and what CONTRIBUTING.md and the README promise of all of them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from edgeskip.cli.main import app
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.notes import detail, note

GROUP: Any = typer.main.get_command(app)
# Commands without a result of their own beside the text that they print.
WITHOUT_JSON = {"schema"}
HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "numpy", "pydantic", "rich", "tokenizers", "safetensors")


def _commands(group: Any = GROUP, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


COMMANDS = dict(_commands())


def _options(command: Any) -> set[str]:
    return {opt for parameter in command.params for opt in parameter.opts}


def _help(*words: str, columns: int = 80) -> str:
    environment = os.environ | {"COLUMNS": str(columns)}
    command = [sys.executable, "-m", "edgeskip", *words, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


@pytest.mark.parametrize("group", [(), ("bench",)])
def test_every_summary_fits_its_line(group: tuple[str, ...]) -> None:
    text = _help(*group)
    assert not [line for line in text.splitlines() if line.endswith("...") and not line.startswith("Usage")]
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not command.hidden])
def test_the_help_of_a_command(name: str, cli: Callable[..., Any]) -> None:
    """Values have meaningful names, and options are in groups, those about output last."""
    text = cli(*name.split(), "--help").out
    assert not re.search(r"<\w+( range)?>|<list", text), text
    assert text.index("\nOutput:") > text.index("\nOptions:")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_same_switches(name: str) -> None:
    options = _options(COMMANDS[name])
    assert {"--quiet", "-q", "--verbose", "-v"} <= options
    assert ("--json" in options) is (name not in WITHOUT_JSON)


@pytest.mark.parametrize("words", [["--help"], ["bench", "run", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    """For the options of a command typer itself may import pydantic, and at its lowest version rich."""
    code = f"""
import sys
from edgeskip.cli.main import app
try:
    app({words!r}, prog_name="edgeskip")
except SystemExit:
    print([module for module in {HEAVY!r} if module in sys.modules])
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()[-1]
    assert loaded in (["[]", "['pydantic']", "['rich']"] if len(words) > 1 else ["[]"])


def _say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `inspect` log a note and a detail, as the library does."""

    def noisy(reference: str, *, verify: bool) -> None:
        note("worth knowing")
        detail("very exact")
        raise EdgeSkipError("an error")

    monkeypatch.setattr("edgeskip.cli.views.inspection.inspect_path", noisy)


@pytest.mark.parametrize(
    ("switch", "said"),
    [
        ((), ["edgeskip: note: worth knowing", "edgeskip: error: an error"]),
        (("-q",), ["edgeskip: error: an error"]),
        (("-v",), ["edgeskip: note: worth knowing", "edgeskip: very exact", "edgeskip: error: an error"]),
    ],
)
def test_quiet_and_verbose(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, switch: tuple[str, ...], said: list[str]
) -> None:
    """By hand: errors are always said. The next command is as talkative as ever."""
    _say(monkeypatch)
    assert cli("inspect", "x", *switch).err.splitlines() == said
    assert len(cli("inspect", "x").err.splitlines()) == 2


def test_of_several_processes_only_the_first_notes(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _say(monkeypatch)
    monkeypatch.setenv("RANK", "1")
    assert cli("inspect", "x", "-v").err == ""


def test_json_is_one_object_and_nothing_else(cli: Callable[..., Any], profile_path: Path) -> None:
    for words in (("inspect", profile_path), ("doctor",), ("fetch", "--list")):
        outcome = cli(*words, "--json")
        assert isinstance(json.loads(outcome.out), dict)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("bench", "-p", "0", "nowhere"), "edgeskip bench run TARGET"),
        (("bench", "nowhere", "--serve", "--port", "0"), "edgeskip bench serve TARGET"),
        (("report", "nowhere", "-o", "x.html"), "edgeskip bench report"),
        (("compare", "nowhere", "nowhere"), "edgeskip bench compare"),
    ],
)
def test_old_spellings_say_the_new_one(cli: Callable[..., Any], old: tuple[str, ...], new: str) -> None:
    first, *rest = cli(*old).err.splitlines()
    assert first.startswith("edgeskip: note: ")
    assert new in first
    assert len(rest) == 1
    assert rest[0].startswith("edgeskip: error: nowhere")
    assert cli(*old, "--quiet").err.splitlines() == rest


def test_a_format_after_o_still_works(cli: Callable[..., Any]) -> None:
    """By hand: `-o` once chose the form of the table."""
    first, _ = cli("bench", "compare", "nowhere", "nowhere", "-o", "json").err.splitlines()
    assert "--format json" in first
    assert "csv is unknown" in cli("bench", "compare", "nowhere", "nowhere", "-o", "csv").complaint()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "x", "--strategy", "fast"), "--strategy: 'fast' is unknown; choose from 'plain', 'speculative'"),
        (("run", "x", "--top-k", "many"), "--top-k: "),
        (("bench", "run", "x", "-r", "0"), "--repetitions: "),
    ],
)
def test_a_value_that_cannot_be_is_one_line(cli: Callable[..., Any], words: tuple[str, ...], said: str) -> None:
    assert cli(*words).complaint().startswith(said)


def test_a_slip_names_what_was_meant(cli: Callable[..., Any]) -> None:
    assert "--max-tokens" in cli("run", "x", "--max-tokn", "3").err
    assert "'run'" in cli("rum").err


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("fetch smol", {"smollm2-135m-instruct"}),
        ("run --strategy pl", {"plain"}),
        ("inspect A", {"A/"}),
        ("run A/", {"A/x.gguf"}),
        ("plan ll", {"llama.json"}),
        ("run ll", set()),
        ("run ../nowhere/", set()),
    ],
)
def test_completion(tmp_path: Path, words: str, offered: set[str]) -> None:
    """In bash's way: the words and which of them is being typed."""
    (tmp_path / "A").mkdir()
    for name in ("A/x.gguf", "A/.hidden.gguf", "llama.json"):
        (tmp_path / name).touch()
    line = f"edgeskip {words}"
    environment = os.environ | {
        "_EDGESKIP_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1),
    }  # fmt: skip
    command = [sys.executable, "-m", "edgeskip"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert offered == {one for one in done.stdout.split() if not one.startswith("smollm") or words.startswith("fetch")}


def test_completion_can_be_installed(tmp_path: Path) -> None:
    environment = os.environ | {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-m", "edgeskip", "--install-completion", "bash"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "edgeskip" in next(tmp_path.rglob("*.sh")).read_text()
