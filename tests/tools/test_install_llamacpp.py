"""Set-up's installing of llama-cpp-python: by hand, with a pip and a self-test that say what they are told to; and make
itself, over a tool that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import install_llamacpp
import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.llamacpp.build import AMX_OFF, BuildAdvice

FAILS = {"f16/1": "SIGSEGV", "q4_0/37": "SIGSEGV"}
ARGS = f"-DCMAKE_C_FLAGS='{AMX_OFF}' -DCMAKE_CXX_FLAGS='{AMX_OFF}'"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the self-tests answer in turn; what was run, each with its CMAKE_ARGS."""

    def pretend(*answers: Any, advice: BuildAdvice | None = None, pip_fails: bool = False) -> list[tuple[str, str]]:
        found, ran = list(answers), []
        advice = advice or BuildAdvice(None, "this processor has no AMX, so no flags are needed")

        def run(command: list[str], env: dict[str, str], **_: Any) -> Any:
            ran.append((" ".join(command[2:]), env.get("CMAKE_ARGS", "")))
            return subprocess.CompletedProcess(command, int(pip_fails))

        monkeypatch.delenv("CMAKE_ARGS", raising=False)
        monkeypatch.setattr(install_llamacpp, "advise_here", lambda **_: advice)
        monkeypatch.setattr(install_llamacpp, "self_test", lambda **_: found.pop(0))
        monkeypatch.setattr(install_llamacpp, "installed_version", lambda package: "9.9")
        monkeypatch.setattr(install_llamacpp.subprocess, "run", run)
        return ran

    return pretend


def test_what_passes_is_installed_once(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ran = machine({})
    install_llamacpp.install(["-e", ".[llamacpp]"])
    assert ran == [("pip --disable-pip-version-check install -qq -e .[llamacpp]", "")]
    assert capsys.readouterr().out == "   this processor has no AMX, so no flags are needed\n   self-test passed\n"


def test_the_flags_are_those_of_the_machine_and_said(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ran = machine({}, advice=BuildAdvice(ARGS, "gcc 12.2.0 breaks on this processor's AMX, so AMX is left out"))
    install_llamacpp.install(["x"])
    assert ran == [("pip --disable-pip-version-check install -qq x", ARGS)]
    assert (
        f"gcc 12.2.0 breaks on this processor's AMX, so AMX is left out: CMAKE_ARGS={ARGS}" in capsys.readouterr().out
    )


def test_a_kept_wheel_that_fails_is_compiled_again(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """pip's cache knows neither flags nor processors."""
    ran = machine(FAILS, {}, advice=BuildAdvice(ARGS, "why"))
    install_llamacpp.install(["x"])
    assert ran[1][0] == "pip --disable-pip-version-check cache remove llama_cpp_python-9.9*"
    assert ran[2] == (
        "pip install --force-reinstall --no-deps --no-binary llama-cpp-python llama-cpp-python==9.9",
        ARGS,
    )
    told = capsys.readouterr().out
    assert "computing with f16 (1 row) ends in SIGSEGV, computing with q4_0 (37 rows) ends in SIGSEGV" in told
    assert told.endswith("self-test passed\n")


def test_what_fails_again_is_an_error(machine: Any) -> None:
    machine(FAILS, FAILS)
    with pytest.raises(EdgeSkipError, match=r"ends in SIGSEGV.*; compiling it again did not help: report this"):
        install_llamacpp.install(["x"])
    machine(None)
    with pytest.raises(EdgeSkipError, match="without a compiled library"):
        install_llamacpp.install(["x"])
    machine({}, pip_fails=True)
    with pytest.raises(EdgeSkipError, match="pip cannot install llama-cpp-python"):
        install_llamacpp.install(["x"])


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("code", [0, 2])
def test_make_leaves_no_stamp_where_the_tool_fails(code: int, tmp_path: Path) -> None:
    """Oracle: make itself, with an environment whose Python ends with `code` and whose other stamps are newest."""
    root = Path(install_llamacpp.__file__).parents[1]
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@"; exit {code}\n')
    python.chmod(0o755)
    for name in (".created", ".torch", ".installed"):
        (tmp_path / name).write_text("")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-C", str(root), "--no-print-directory", f"VENV={tmp_path}", "llamacpp"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "tools/install_llamacpp.py -e .[dev,llamacpp]" in done.stdout
    assert (done.returncode, (tmp_path / ".llamacpp").exists()) == (code, code == 0), done.stderr


def test_the_tool_itself_over_what_is_installed() -> None:
    """A requirement that is met installs nothing; the self-test of what is there passes."""
    pytest.importorskip("llama_cpp")
    command = [sys.executable, install_llamacpp.__file__, "packaging"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("self-test passed\n")
