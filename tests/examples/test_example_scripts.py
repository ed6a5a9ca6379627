"""Everything in examples/ runs: as written on the small model (slow), the scripts on a tiny one too.

Oracles: exit codes, the files that must be there, the label of the artifact, and that drafted text equals plain text
(which the example itself asserts).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgeskip

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh", ".ipynb")}


def run(folder: Path, *command: object, stdin: str = "", **environment: str) -> str:
    """What `command` prints in `folder`, with this environment's `edgeskip` first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def script(folder: Path, name: str, *arguments: object, stdin: str = "") -> str:
    return run(folder, sys.executable, EXAMPLES / name, *arguments, stdin=stdin)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


def test_all_are_tested() -> None:
    """This file names every example."""
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in sorted(SCRIPTS) if f'"{name}"' not in text] == []
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [name for name in sorted(SCRIPTS) if f"`{name}`" not in listed] == []


def test_on_a_tiny_model(home: Path, tiny_llama: Path) -> None:
    out = script(home, "quickstart.py", tiny_llama, "--skip-sublayers", 2, "--tokens", 1024, "--output", "tiny")
    assert "lossy-skip" in out
    assert edgeskip.load(home / "tiny").label == "lossy-skip"
    script(home, "chat.py", "tiny", "--max-tokens", 4, stdin="Hello\nAgain\n\n")
    out = script(home, "speculative.py", tiny_llama, "--exit-layer", 2, "--tokens", 1024, "--output", "draft")
    assert out.count("the same") == 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_quickstart_and_chat_on_the_small_model(home: Path) -> None:
    out = script(home, "quickstart.py", "--output", "small")
    assert "lossy-skip" in out
    assert "nats per token" in out
    assert script(home, "chat.py", "small", "--max-tokens", 16, stdin="What is a noun?\n").strip()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_speculative_on_the_small_model(home: Path) -> None:
    assert script(home, "speculative.py").count("the same") == 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_trained_exit_on_the_small_model(home: Path) -> None:
    out = run(home, "bash", EXAMPLES / "train_exit.sh", "exit", STEPS="4")
    assert (home / "exit" / "artifact" / "edgeskip.json").is_file()
    assert out.strip()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_comparing_devices(home: Path, tiny_llama: Path) -> None:
    edgeskip.export(
        edgeskip.calibrate(tiny_llama, tokens=512, context=64, decode_tokens=0), home / "compared", check=False
    )
    few = "--n-prompt 16 --n-gen 8 --num-prompts 0 --no-quality"
    out = run(home, "bash", EXAMPLES / "compare_devices.sh", "compared", "devices", OPTIONS=few, ROUNDS="1")
    assert "pp16" in out
    assert (home / "devices" / "report.html").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_notebook(home: Path) -> None:
    """Every cell runs, the plot is there, and the last cell prints an answer."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit the notebook without outputs"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(home)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("lossy-skip" in output.get("text", "") for output in outputs)
    assert notebook.cells[-1].outputs[-1].text.strip()
