"""The command as a whole. Oracle: the exit codes and lines CONTRIBUTING.md promises; a stopwatch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgeskip.cli.views.inspection
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.version import __version__

VERBS = ("fetch", "calibrate", "profile-device", "plan", "schema", "export", "run", "eval", "inspect", "doctor")
HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "numpy", "pydantic", "rich", "tokenizers", "safetensors")


def test_help_names_every_verb_and_takes_under_half_a_second() -> None:
    command = [sys.executable, "-m", "edgeskip", "--help"]
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - start)
    assert best < 0.5
    for verb in VERBS:
        assert f"\n  {verb} " in answer.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb(cli: Callable[..., Any], verb: str) -> None:
    outcome = cli(verb, "--help")
    assert outcome.code == 0
    assert "Usage:" in outcome.out


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    code = f"import sys, edgeskip.cli.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_version(cli: Callable[..., Any]) -> None:
    outcome = cli("--version")
    assert (outcome.code, outcome.out) == (0, f"edgeskip {__version__}\n")


@pytest.mark.parametrize("arguments", [["no-such-verb"], ["inspect"], ["inspect", "x", "--no-such-option"]])
def test_usage_errors_exit_2_without_a_traceback(cli: Callable[..., Any], arguments: list[str]) -> None:
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert "Usage:" in outcome.err
    assert "Traceback" not in outcome.err


def test_an_error_is_one_line_even_where_its_message_has_several(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _make_inspect_raise(monkeypatch, EdgeSkipError("first\n  second"))
    assert cli("inspect", "x").complaint() == "first second"


def test_a_defect_keeps_its_traceback(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _make_inspect_raise(monkeypatch, KeyError("ours"))
    with pytest.raises(KeyError, match="ours"):
        cli("inspect", "x")


def test_a_traceback_can_be_asked_for(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _make_inspect_raise(monkeypatch, EdgeSkipError("wrong"))
    monkeypatch.setenv("EDGESKIP_TRACEBACK", "1")
    with pytest.raises(EdgeSkipError):
        cli("inspect", "x")


def test_ctrl_c_exits_130(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _make_inspect_raise(monkeypatch, KeyboardInterrupt())
    outcome = cli("inspect", "x")
    assert (outcome.code, outcome.err) == (130, "edgeskip: interrupted\n")


def test_a_ctrl_c_that_comes_again_late_changes_nothing() -> None:
    """By hand: what a library's callback lost is asked for again, and arrives when the command has ended already."""
    code = """
import sys, types
import edgeskip.cli.views.inspection
from edgeskip.cli import main as cli, signals

def interrupted(reference, *, verify):
    raise KeyboardInterrupt

def late(line, **options):
    complain(line, **options)
    signals._ask_again(types.SimpleNamespace(exc_value=KeyboardInterrupt()))

edgeskip.cli.views.inspection.inspect_path = interrupted
complain, cli._print_error = cli._print_error, late
sys.argv = ["edgeskip", "inspect", "x"]
cli.main()
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (130, "edgeskip: interrupted\n")


def test_of_several_processes_only_the_first_tells_a_common_error(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    _make_inspect_raise(monkeypatch, EdgeSkipError("everyone's"))
    assert (cli("inspect", "x").code, cli("inspect", "x").err) == (2, "")
    _make_inspect_raise(monkeypatch, MemoryError("mine"))
    assert cli("inspect", "x").err.startswith("edgeskip: rank 1: error: not enough memory (mine)")


def test_a_reader_that_stops_early_is_no_error(profile_path: Path) -> None:
    """`edgeskip inspect … | head -1`: quiet, whatever the exit code."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "edgeskip", "inspect", str(profile_path), "--json"]
    answer = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert answer.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_termination_runs_the_clean_up(tmp_path: Path) -> None:
    """A terminated verb leaves no temporary folder: `staged_folder`'s `finally` must run."""
    code = f"""
import pathlib, sys, time
import edgeskip.cli.views.inspection
from edgeskip.core.files import staged_folder

def wait(path, verify):
    with staged_folder(pathlib.Path({str(tmp_path / "out")!r}), overwrite=False) as folder:
        (folder / "half").write_text("half")
        print("ready", flush=True)
        time.sleep(60)

edgeskip.cli.views.inspection.inspect_path = wait
sys.argv = ["edgeskip", "inspect", "x"]
from edgeskip.cli.main import main
main()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert any(path.name.endswith(".edgeskip-part") for path in tmp_path.iterdir())
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def _make_inspect_raise(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(reference: str, *, verify: bool) -> None:
        raise error

    monkeypatch.setattr(edgeskip.cli.views.inspection, "inspect_path", fail)
