"""Bad input to the command: one line, exit code 2, no traceback, nothing half-written. Oracle: the folder's listing.

The disk that fills up is a limit on file size (RLIMIT_FSIZE): a write past it fails as on a full disk, without root.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forgotten_modules import forget_modules

Cli = Callable[..., Any]
TEXT = "The water at the quay stands highest at nine minutes past six in the morning. "


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT * 40, encoding="utf-8")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for outputs: it must still be empty afterwards."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def calibrate(cli: Cli, model: object, corpus: object, output: Path) -> Any:
    arguments = ("--corpus", corpus, "--tokens", 128, "--context", 64, "--decode-tokens", 0, "-o", output)
    return cli("calibrate", model, *arguments)


def test_a_model_that_is_nowhere(cli: Cli, corpus: Path, out: Path) -> None:
    assert "no-such-model" in calibrate(cli, "no-such-model", corpus, out / "p.json").complaint()
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "no header", "huge header", "empty"])
def test_a_damaged_safetensors_file(cli: Cli, model: Path, corpus: Path, out: Path, damage: str) -> None:
    weights = model / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(
        {
            "truncated": data[: len(data) // 2],
            "no header": b"\x00" * 100,
            "huge header": struct.pack("<Q", 1 << 60) + data[8:],
            "empty": b"",
        }[damage]
    )
    assert "model.safetensors" in calibrate(cli, model, corpus, out / "p.json").complaint()
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "not a GGUF", "empty"])
def test_a_damaged_gguf_file(
    cli: Cli, smollm2_gguf: Path, tmp_path: Path, corpus: Path, out: Path, damage: str
) -> None:
    bad = tmp_path / "bad.gguf"
    with smollm2_gguf.open("rb") as file:
        head = file.read(4_000_000)
    bad.write_bytes({"truncated": head, "not a GGUF": b"GGML" + head[4:], "empty": b""}[damage])
    assert "bad.gguf" in calibrate(cli, bad, corpus, out / "p.json").complaint()
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "mamba"}', "{}"])
def test_a_config_that_is_not_a_supported_models(cli: Cli, model: Path, corpus: Path, out: Path, text: str) -> None:
    (model / "config.json").write_text(text)
    complaint = calibrate(cli, model, corpus, out / "p.json").complaint()
    if "mamba" in text:
        assert "mamba" in complaint
        assert "llama" in complaint  # what is supported
    assert list(out.iterdir()) == []


def test_pickled_weights_are_not_opened(cli: Cli, model: Path, corpus: Path, out: Path, tmp_path: Path) -> None:
    """A folder with only a pickle is refused; were it loaded, it would create `ran`."""
    import pickle

    class Run:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Run()))
    assert "safetensors" in calibrate(cli, model, corpus, out / "p.json").complaint()
    assert not (tmp_path / "ran").exists()
    assert list(out.iterdir()) == []


def test_code_in_a_model_folder_is_not_run(cli: Cli, model: Path, corpus: Path, out: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (model / "config.json").write_text(json.dumps(config))
    (model / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    outcome = calibrate(cli, model, corpus, out / "p.json")
    assert outcome.code in {0, 2}
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "told"), [(b"", "empty"), (b"  \n \n", "empty"), (b"Few words.", "64"), (b"\xff\xfe\x00", "UTF-8")]
)
def test_a_corpus_that_gives_no_window(cli: Cli, model: Path, out: Path, content: bytes, told: str) -> None:
    corpus = out.parent / "corpus.txt"
    corpus.write_bytes(content)
    assert told in calibrate(cli, model, corpus, out / "p.json").complaint()
    assert list(out.iterdir()) == []


def test_a_corpus_of_damaged_json_lines(cli: Cli, model: Path, out: Path) -> None:
    corpus = out.parent / "corpus.jsonl"
    corpus.write_text('{"text": "fine"}\n{"text": \n')
    assert "corpus.jsonl" in calibrate(cli, model, corpus, out / "p.json").complaint()
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--alpha", "0.9"], "at least 1"),
        (["--alpha", "nan"], "at least 1"),
        (["--skip-sublayers", "8"], "8"),
        (["--skip-sublayers", "-1"], "-1"),
        (["--skip", "attn.4"], "attn.4"),
        (["--skip", "mlp.1"], "mlp.1"),
        (["--skip", "attn.0,ffn.0,attn.1,ffn.1,attn.2,ffn.2,attn.3,ffn.3"], "keep at least one"),
        (["--skip-sublayers", "2", "--alpha", "1.2"], "exactly one"),
        ([], "exactly one"),
    ],
)
def test_plans_that_cannot_be(cli: Cli, profile_path: Path, options: list[str], told: str) -> None:
    before = profile_path.read_bytes()
    assert told in cli("plan", profile_path, *options).complaint()
    assert profile_path.read_bytes() == before
    assert sorted(path.name for path in profile_path.parent.iterdir()) == ["tiny.json", "tiny.safetensors"]


@pytest.mark.parametrize(("option", "value"), [("--compensation", "magic"), ("--method", "guess")])
def test_choices_that_do_not_exist(cli: Cli, profile_path: Path, option: str, value: str) -> None:
    before = profile_path.read_bytes()
    outcome = cli("plan", profile_path, "--skip-sublayers", "2", option, value)
    assert outcome.code == 2
    assert option in outcome.err
    assert value in outcome.err
    assert profile_path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"format": "edgeskip-profile", "version": 99}', b"\xff\xff"])
@pytest.mark.parametrize("verb", ["plan", "inspect"])
def test_a_profile_that_is_not_one(cli: Cli, tmp_path: Path, verb: str, content: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    options = ["--skip-sublayers", "2"] if verb == "plan" else []
    assert "bad.json" in cli(verb, path, *options).complaint()
    assert path.read_bytes() == content


UNWRITABLE = Path("/sys/kernel")  # refuses even root


@pytest.mark.skipif(not UNWRITABLE.is_dir(), reason="no folder here that refuses even root")
def test_an_unwritable_folder(cli: Cli, profile_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for outcome in (
        cli("plan", profile_path, "--skip-sublayers", 2, "-o", UNWRITABLE / "p.json"),
        cli("inspect", profile_path, "--plot", UNWRITABLE / "p.png"),
    ):
        assert str(UNWRITABLE) in outcome.complaint()


def test_an_output_below_a_file(cli: Cli, profile_path: Path) -> None:
    complaint = cli("plan", profile_path, "--skip-sublayers", 2, "-o", profile_path / "p.json").complaint()
    assert str(profile_path) in complaint


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_disk_that_fills_up(profile_path: Path, out: Path) -> None:
    """The vectors still fit, the profile does not: neither stays."""
    resource = pytest.importorskip("resource")
    limit = profile_path.with_suffix(".safetensors").stat().st_size + 100
    assert limit < profile_path.stat().st_size
    target = out / "p.json"
    answer = subprocess.run(
        [sys.executable, "-m", "edgeskip", "plan", profile_path, "--skip-sublayers", "2", "-o", target],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert answer.returncode == 2, answer.stderr
    (line,) = [told for told in answer.stderr.splitlines() if " elapsed" not in told]  # besides: how far it was
    assert line.startswith(f"edgeskip: error: {target}: File too large")
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_extra(
    cli: Cli, model: Path, corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # importing it now fails as where it is not installed
    forget_modules(monkeypatch, "edgeskip.exporters")
    complaint = calibrate(cli, model, corpus, out / "p.json").complaint()
    assert f"{package!r}" in complaint
    assert "pip install 'edgeskip[export]'" in complaint
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("verb", ["inspect", "run"])
def test_an_artifact_folder_that_is_not_one(cli: Cli, tmp_path: Path, verb: str) -> None:
    options = ["-p", "hello"] if verb == "run" else []
    assert "edgeskip.json" in cli(verb, tmp_path, *options).complaint()
    assert "nowhere" in cli(verb, tmp_path / "nowhere", *options).complaint()


def test_an_artifact_that_is_damaged_does_not_run(cli: Cli, artifact_path: Path) -> None:
    """conftest.py's artifact is filler: its model.onnx is five letters."""
    assert str(artifact_path) in cli("run", artifact_path, "-p", "hello").complaint()


@pytest.mark.parametrize(
    "words",
    [
        ("run", "", "-p", "hi"),
        ("inspect", ""),
        ("inspect", " "),
        ("profile-device", "", "-o", "device.json"),
        ("eval", ""),
        ("bench", "name="),
        ("compare", "", ""),
        ("plan", "", "--alpha", "1.5"),
    ],
    ids=" ".join,
)
def test_an_empty_name_is_not_the_current_folder(
    cli: Cli, out: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """By hand: a shell's unset variable leaves one, and nobody means that."""
    monkeypatch.chdir(out)
    monkeypatch.setenv("EDGESKIP_DATA", str(out))
    assert "an empty name" in cli(*words).complaint()
    assert list(out.iterdir()) == []
