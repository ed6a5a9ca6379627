"""Two commands that make the same output at once, as real processes. Oracle: which of them ends with 0, and what is
there then."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from random_profiles import random_profile

from edgeskip.cli.views.inspection import ArtifactReport, inspect_path
from edgeskip.models.source import open_model
from edgeskip.profiles.schema import read_profile
from edgeskip.profiles.vectors import read_vectors

Cli = Callable[..., Any]


def at_once(*commands: list[str]) -> list[tuple[int, str]]:
    """(exit code, last line on stderr) of each; they start together."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "edgeskip", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    told = [process.communicate(timeout=300)[1] for process in processes]
    return [(process.returncode, text.strip().split("\n")[-1]) for process, text in zip(processes, told, strict=True)]


def one_won(ended: list[tuple[int, str]]) -> None:
    assert sorted(code for code, _ in ended) == [0, 2]
    (told,) = [line for code, line in ended if code == 2]
    assert "is writing to" in told or "exists" in told


@pytest.mark.parametrize("target", ["onnx", pytest.param("gguf", marks=pytest.mark.slow)])
def test_two_exports(tiny_llama: Path, tmp_path: Path, target: str) -> None:
    random_profile(open_model(str(tiny_llama)), tmp_path / "p.json")
    output = tmp_path / ("out" if target == "onnx" else "out.gguf")
    command = ["export", "--profile", str(tmp_path / "p.json"), "--model", str(tiny_llama), "-o", str(output)]
    command += ["--target", target, "--precision", "fp32" if target == "onnx" else "F32", "--no-check"]
    one_won(at_once(command, command))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    if target == "onnx":
        report = inspect_path(str(output))
        assert isinstance(report, ArtifactReport)
        assert report.problem is None


def test_two_calibrations(tiny_llama: Path, tmp_path: Path) -> None:
    """The profile goes with its vectors: both are of one process."""
    output = tmp_path / "p.json"
    command = ["calibrate", str(tiny_llama), "-o", str(output), "--tokens", "256", "--context", "64"]
    ended = at_once([*command, "--seed", "1"], [*command, "--seed", "2"])
    one_won(ended)
    profile = read_profile(output)
    read_vectors(profile, output)
    assert profile.calibration.seed == 1 + [code for code, _ in ended].index(0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.json", "p.safetensors"]


def test_a_folder_that_is_trained_into(cli: Cli, tiny_llama: Path, tmp_path: Path) -> None:
    """Refused at once, with the pid of the process that trains; after it was killed the folder is free."""
    code = "import sys, time; from pathlib import Path; from edgeskip.core.locks import claim\n"
    code += "with claim(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    (tmp_path / "texts.txt").write_text("one text\nanother text\n")
    command = [
        "train",
        str(tiny_llama),
        "--method",
        "layerskip",
        "--data",
        str(tmp_path / "texts.txt"),
        "-o",
        str(folder),
        "--exits",
        "99",
    ]
    told = cli(*command).complaint()
    assert f"another edgeskip process (pid {process.pid}) is writing to {folder}" in told
    process.kill()
    process.wait()
    assert "pid" not in cli(*command).complaint()  # there is no exit 99
