"""Bad input to export and run, on a real profile and artifact of the tiny model. Oracle: exit code, line, listing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forgotten_modules import forget_modules
from tiny_models import tiny_checkpoint

from edgeskip.core.files import sha256_of

Cli = Callable[..., Any]
TEXT = "The water at the quay stands highest at nine minutes past six in the morning. "


@pytest.fixture(scope="module")
def made(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.json, its vectors, and the artifact `tiny` exported from it; read only."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "corpus.txt").write_text(TEXT * 40, encoding="utf-8")
    sizes = "--tokens 128 --context 64 --decode-tokens 0"
    for command in (
        f"calibrate {tiny_llama} --corpus corpus.txt {sizes} -o tiny.json",
        "plan tiny.json --skip attn.1,ffn.2",
        "export --profile tiny.json -o tiny --no-check",
    ):
        words = [sys.executable, "-m", "edgeskip", *command.split()]
        answer = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
    return folder


@pytest.fixture
def artifact(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made / "tiny", tmp_path / "artifact"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder for outputs: it must still be empty afterwards."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_a_profile_of_another_model(cli: Cli, made: Path, out: Path, tmp_path: Path) -> None:
    other = tiny_checkpoint("llama", tmp_path / "other", seed=1)
    complaint = cli("export", "--profile", made / "tiny.json", "--model", other, "-o", out / "a").complaint()
    assert "other weights" in complaint
    assert list(out.iterdir()) == []


def test_a_folder_that_exists_is_kept(cli: Cli, made: Path, artifact: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in artifact.iterdir()}
    assert "--overwrite" in cli("export", "--profile", made / "tiny.json", "-o", artifact).complaint()
    assert {file.name: file.stat().st_mtime_ns for file in artifact.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--precision", "int3"], "int3"),
        (["--target", "tflite"], "tflite"),
        (["--precision", "int4", "--block-size", "33"], "33"),
    ],
)
def test_exports_that_cannot_be(cli: Cli, made: Path, out: Path, options: list[str], told: str) -> None:
    assert told in cli("export", "--profile", made / "tiny.json", "-o", out / "a", *options).complaint()
    assert list(out.iterdir()) == []


def test_an_export_without_torch_names_the_extra(
    cli: Cli, made: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    forget_modules(monkeypatch, "edgeskip.exporters")
    complaint = cli("export", "--profile", made / "tiny.json", "-o", out / "a").complaint()
    assert "pip install 'edgeskip[export]'" in complaint
    assert list(out.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_an_export_to_a_disk_that_fills_up(made: Path, out: Path) -> None:
    """Half of the weights fit: a write past RLIMIT_FSIZE fails as on a full disk."""
    resource = pytest.importorskip("resource")
    limit = (made / "tiny" / "model.onnx.data").stat().st_size // 2
    answer = subprocess.run(
        [sys.executable, "-m", "edgeskip", "export", "--profile", made / "tiny.json", "-o", out / "a"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert answer.returncode == 2, answer.stderr
    assert "Traceback" not in answer.stderr
    assert "File too large" in answer.stderr.splitlines()[-1]
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("file", ["model.onnx", "model.onnx.data", "tokenizer.json", "config.json", "edgeskip.json"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "missing"])
def test_a_damaged_artifact_does_not_run(cli: Cli, artifact: Path, file: str, damage: str) -> None:
    path = artifact / file
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "truncated" else b"\x00\xff" * (len(data) // 2))
    outcome = cli("run", artifact, "-p", "hello", "--max-tokens", 2)
    if (file, damage) in {("model.onnx.data", "garbage"), ("config.json", "missing")}:
        # Weights of the right length are only told wrong by their hash, and config.json is not needed to run.
        assert outcome.code in {0, 2}
    else:
        assert file.removesuffix(".data") in outcome.complaint()
    assert file in cli("inspect", artifact).complaint()


def test_weights_outside_the_folder_are_not_read(cli: Cli, artifact: Path) -> None:
    """external_data.location is a path chosen by whoever made the file."""
    onnx = pytest.importorskip("onnx")
    (artifact / "model.onnx.data").rename(artifact.parent / "elsewhere.data")
    model = onnx.load(str(artifact / "model.onnx"), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../elsewhere.data"
    onnx.save(model, str(artifact / "model.onnx"))
    # Whoever changes the graph changes its hash in the manifest as well.
    manifest = json.loads((artifact / "edgeskip.json").read_text(encoding="utf-8"))
    manifest["files"]["model.onnx"] = sha256_of(artifact / "model.onnx")
    del manifest["files"]["model.onnx.data"]
    (artifact / "edgeskip.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert "cannot load" in cli("run", artifact, "-p", "hello", "--max-tokens", 2).complaint()


def test_a_prompt_longer_than_the_context(cli: Cli, artifact: Path) -> None:
    complaint = cli("run", artifact, "-p", TEXT * 100, "--max-tokens", 2).complaint()
    assert "512" in complaint


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["-p", ""], "empty"),
        ([], "-p"),
        (["-p", "x", "--max-tokens", "0"], "max"),
        (["-p", "x", "--temperature", "-1"], "temperature"),
        (["-p", "x", "--top-p", "0"], "top"),
        (["-p", "x", "--provider", "abacus"], "abacus"),
        (["-p", "x", "--threads", "0"], "threads"),
        (["-f", "no-such-file.txt"], "no-such-file.txt"),
    ],
)
def test_runs_that_cannot_be(cli: Cli, made: Path, options: list[str], told: str) -> None:
    assert told in cli("run", made / "tiny", *options).complaint()


def test_a_chat_template_is_never_more_than_a_template(cli: Cli, artifact: Path, tmp_path: Path) -> None:
    """The classic way out of a template: jinja2's sandbox must refuse it."""
    path = artifact / "tokenizer_config.json"
    config = json.loads(path.read_text())
    out = tmp_path / "ran"
    config["chat_template"] = (
        "{{ cycler.__init__.__globals__.os.mkdir('"
        + str(out)
        + "') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    path.write_text(json.dumps(config))
    assert cli("run", artifact, "-p", "hello", "--max-tokens", 2).complaint()
    assert not out.exists()
