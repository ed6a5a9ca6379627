"""Environments of the peers: made once, taken up again after a failure. Oracle: the commands that were run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import harness.peers
import pytest
from harness.peers import REQUIREMENTS, environment

from edgeskip.core.errors import EdgeSkipError


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would run; those that hold the word `failing[0]` fail."""
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 1 if ran[0] == ["fail"] else 0)

    def create(folder: Path, *, with_pip: bool) -> None:
        assert with_pip
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").touch()

    monkeypatch.setattr(harness.peers.subprocess, "run", run)
    monkeypatch.setattr(harness.peers.venv, "create", create)
    monkeypatch.setattr(harness.peers.sys, "platform", "linux")
    return ran


def test_torch_first_then_the_pinned_packages(tmp_path: Path, commands: list[list[str]]) -> None:
    python = environment("genai", tmp_path)
    assert python == tmp_path / "environments" / "genai" / "bin" / "python"
    torch, packages = commands
    assert torch == [str(python), str(Path(__file__).parents[4] / "tools" / "install_torch.py")]
    assert packages[0] == str(python)
    assert packages[-len(REQUIREMENTS["genai"]) :] == list(REQUIREMENTS["genai"])


def test_a_made_environment_is_kept_until_the_pins_change(
    tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment("optimum", tmp_path)
    environment("optimum", tmp_path)
    assert len(commands) == 2
    monkeypatch.setitem(harness.peers.REQUIREMENTS, "optimum", ("optimum-onnx==9",))
    environment("optimum", tmp_path)
    assert commands[-1][-1] == "optimum-onnx==9"


def test_a_failed_install_is_one_clear_line_and_is_tried_again(tmp_path: Path, commands: list[list[str]]) -> None:
    commands.append(["fail"])
    with pytest.raises(EdgeSkipError, match=r"cannot make the environment of genai: .* --genai-python"):
        environment("genai", tmp_path)
    commands.clear()
    environment("genai", tmp_path)
    assert len(commands) == 2


def test_requirements_keep_the_peers_apart() -> None:
    """optimum-onnx pins transformers < 4.58, genai's model builder needs 5: one environment cannot hold both."""
    major = {name: next(r for r in REQUIREMENTS[name] if r.startswith("transformers==")) for name in REQUIREMENTS}
    assert major["optimum"] < "transformers==4.58" <= "transformers==5" <= major["genai"]
