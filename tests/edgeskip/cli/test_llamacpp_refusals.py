"""Every command and function that computes with llama.cpp, over a build that crashes: one line, exit code 2, no signal.

Oracle: the exit codes of real processes, over a copy of the installed library with a broken instruction in its matrix
product (`broken_llamacpp`): what a build by gcc 12.2 does on a processor with AMX.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from broken_llamacpp import break_llamacpp
from random_profiles import random_profile
from talking_gguf import talking_gguf

from edgeskip.models.source import open_model

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the broken instruction is one of x86 in ELF"
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """That of a process which finds the broken library; the self-test has failed once already."""
    folder = tmp_path_factory.mktemp("broken")
    path = break_llamacpp(folder / "lib", "SIGSEGV")
    found = {**os.environ, "LLAMA_CPP_LIB_PATH": str(path), "EDGESKIP_CACHE": str(folder / "cache")}
    code = "from edgeskip.runtime.engines.llamacpp.self_test import self_test; assert self_test()"
    subprocess.run([sys.executable, "-c", code], env=found, check=True)
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_gguf(tmp_path_factory.mktemp("file") / "tiny.gguf")[0]


def refused(environment: dict[str, str], *arguments: object, cwd: Path) -> None:
    command = [sys.executable, "-m", "edgeskip", *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    *before, line = done.stderr.strip().splitlines()
    assert line.startswith(
        "edgeskip: error: llama.cpp does not work here: computing with every weight type, a whole model (1 and 37"
    )
    assert "ends in SIGSEGV; compiled by " in line
    assert "--no-cache-dir --force-reinstall --no-deps --no-binary llama-cpp-python llama-cpp-python==" in line
    assert not any("error" in other.lower() for other in before), done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["run", "FILE", "-p", "x"],
        ["bench", "FILE", "-p", "8", "-n", "2", "-r", "1"],
        ["profile-device", "FILE", "-o", "device.json"],
        ["eval", "FILE"],
    ],
    ids=lambda command: command[0],
)
def test_commands_refuse(command: list[str], environment: dict[str, str], file: Path, tmp_path: Path) -> None:
    if command[0] == "eval":
        (tmp_path / "wikitext2_test.txt").write_text("A text of some words. " * 400)
        environment = {**environment, "EDGESKIP_DATA": str(tmp_path)}
    before = sorted(tmp_path.iterdir())
    refused(environment, *(str(file) if word == "FILE" else word for word in command), cwd=tmp_path)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("precision", ["f16", "q4_k_m"])
def test_export_refuses_before_it_writes(
    precision: str, environment: dict[str, str], tiny_llama: Path, tmp_path: Path
) -> None:
    random_profile(open_model(str(tiny_llama)), tmp_path / "p.json", skip=("ffn.1",))
    before = sorted(tmp_path.iterdir())
    options = ["--target", "gguf", "--precision", precision, "--model", tiny_llama, "-o", tmp_path / "out"]
    refused(environment, "export", "--profile", tmp_path / "p.json", *options, cwd=tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_export_without_llamacpp_still_works(environment: dict[str, str], tiny_llama: Path, tmp_path: Path) -> None:
    """F16 unchecked is written by numpy and the gguf package alone."""
    random_profile(open_model(str(tiny_llama)), tmp_path / "p.json", skip=("ffn.1",))
    command = [sys.executable, "-m", "edgeskip", "export", "--profile", tmp_path / "p.json", "--model", tiny_llama]
    command += ["--target", "gguf", "--precision", "f16", "--no-check", "-o", tmp_path / "out.gguf"]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert (done.returncode, (tmp_path / "out.gguf").is_file()) == (0, True), done.stderr


def test_load_raises(environment: dict[str, str], file: Path) -> None:
    code = (
        "import edgeskip\nfrom edgeskip.core.errors import EdgeSkipError\n"
        f"try: edgeskip.load({str(file)!r})\n"
        "except EdgeSkipError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "llama.cpp does not work here: computing with every weight type, a whole model (1 and 37 rows) ends"
    )


def test_doctor_tells_it_with_the_command(environment: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-m", "edgeskip", "doctor"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # the base install works
    assert "self-test failed, see below" in done.stdout
    assert "- llama.cpp does not work here: computing with every weight type" in done.stdout
    assert f"    {sys.executable} -m pip install --no-cache-dir --force-reinstall" in done.stdout


def test_inspect_needs_no_llamacpp(environment: dict[str, str], file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgeskip", "inspect", str(file)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
