"""`edgeskip export` from the outside. Oracle: exit code, lines on stderr, and the listing of the folder it wrote to."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from random_profiles import random_profile

from edgeskip.artifacts.manifest import read_manifest

Cli = Callable[..., Any]
UNWRITABLE = Path("/sys/kernel")  # refuses even root


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.fixture
def profile(model: Path, tmp_path: Path) -> Path:
    """A profile of it that skips three sublayers, affine."""
    from edgeskip.models.source import open_model

    path = tmp_path / "tiny.json"
    random_profile(open_model(str(model)), path, skip=("attn.0", "ffn.1", "attn.2"))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for outputs: after an error it must still be empty."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def refused(cli: Cli, out: Path, profile: Path, *options: object, target: str = "artifact") -> str:
    """The one line of an export that fails and leaves nothing."""
    complaint: str = cli("export", "--profile", profile, "-o", out / target, *options).complaint()
    assert list(out.iterdir()) == []
    return complaint


def test_an_artifact_is_written_and_described(cli: Cli, profile: Path, out: Path) -> None:
    outcome = cli("export", "--profile", profile, "-o", out / "artifact")
    assert outcome.code == 0, outcome.err
    assert [path.name for path in out.iterdir()] == ["artifact"]
    first, second, third, fourth = outcome.out.strip().splitlines()
    assert "lossy-skip, fp32, 3 of 8 sublayers skipped" in first
    assert second.startswith("checked against transformers ")
    assert "LlamaForCausalLM, same plan by hooks, float32 on 256 tokens: max |Δlogit| " in second
    assert third.startswith("cost against the dense model: perplexity ")
    assert fourth.startswith("predicted speed-up: prefill ")
    assert read_manifest(out / "artifact").plan.skip == ["attn.0", "ffn.1", "attn.2"]


def test_options_reach_the_format(cli: Cli, profile: Path, out: Path) -> None:
    options = ("--block-size", 16, "--symmetric", "--head-bits", 4, "--accuracy-level", 1, "--no-check")
    outcome = cli("export", "--profile", profile, "-o", out / "a", "--precision", "int4", *options)
    assert outcome.code == 0, outcome.err
    assert "not checked" in outcome.out
    quantisation = read_manifest(out / "a").graph.quantisation
    values = [quantisation[name] for name in ("block_size", "symmetric", "head_bits", "accuracy_level")]
    assert values == [16, True, 4, 1]


def test_without_a_plan_it_is_dense(cli: Cli, profile: Path, out: Path) -> None:
    content = json.loads(profile.read_text())
    del content["plan"]
    profile.write_text(json.dumps(content))
    outcome = cli("export", "--profile", profile, "-o", out / "a", "--no-check")
    assert "dense, fp32, 0 of 8 sublayers skipped" in outcome.out


def test_a_model_that_moved(cli: Cli, profile: Path, model: Path, out: Path) -> None:
    """The profile names a folder that is gone; --model names the new one."""
    moved = model.rename(model.parent / "elsewhere")
    assert str(model) in refused(cli, out, profile)
    assert cli("export", "--profile", profile, "--model", moved, "-o", out / "a", "--no-check").code == 0


def test_an_existing_folder(cli: Cli, profile: Path, out: Path) -> None:
    target = out / "a"
    assert cli("export", "--profile", profile, "-o", target, "--no-check").code == 0
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    assert "--overwrite" in cli("export", "--profile", profile, "-o", target).complaint()
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before
    assert cli("export", "--profile", profile, "-o", target, "--no-check", "--overwrite").code == 0
    assert [path.name for path in out.iterdir()] == ["a"]


def test_overwrite_replaces_artifacts_only(cli: Cli, profile: Path, model: Path, tmp_path: Path) -> None:
    before = sorted(model.iterdir())
    for target in (model, tmp_path):
        complaint = cli("export", "--profile", profile, "-o", target, "--overwrite").complaint()
        assert str(target) in complaint
        assert "choose another -o" in complaint
    assert sorted(model.iterdir()) == before
    assert "is a file" in cli("export", "--profile", profile, "-o", profile, "--overwrite").complaint()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--precision", "fp8"], "fp8 is unknown: choose one of fp32, fp16, int4"),
        (["--target", "tflite"], "tflite"),
        (["--precision", "int4", "--block-size", "33"], "--block-size 33"),
        (["--precision", "int4", "--head-bits", "3"], "--head-bits 3"),
        (["--precision", "int4", "--accuracy-level", "9"], "--accuracy-level 9"),
        (["--precision", "int4", "--block-size", "128"], "choose a smaller --block-size"),  # hidden size 64
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_requests_that_cannot_be(cli: Cli, profile: Path, out: Path, options: list[str], told: str) -> None:
    assert told in refused(cli, out, profile, *options)


@pytest.fixture
def dense(profile: Path) -> Path:
    """The same profile without its plan."""
    content = json.loads(profile.read_text())
    del content["plan"]
    profile.write_text(json.dumps(content))
    return profile


def test_an_exit_that_was_never_calibrated(cli: Cli, dense: Path, out: Path) -> None:
    """A checkpoint that was trained to exit early needs no more than the layer."""
    outcome = cli("export", "--profile", dense, "-o", out / "a", "--draft", "early-exit", "--exit-layer", "1,3")
    assert outcome.code == 0, outcome.err
    first, second, third = outcome.out.strip().splitlines()
    assert "dense, fp32, 0 of 8 sublayers skipped" in first
    assert re.fullmatch(r"draft: early exit after 1 \(plain head, .*%.*\), 3 \(plain head, .*\) of 4 blocks", second)
    assert third.startswith("checked against transformers ")
    record = read_manifest(out / "a").draft
    assert record is not None
    assert [found.layer for found in record.exits] == [1, 3]


def test_a_plan_that_drafts(cli: Cli, profile: Path, out: Path) -> None:
    outcome = cli("export", "--profile", profile, "-o", out / "a", "--draft", "skip-plan")
    assert outcome.code == 0, outcome.err
    first, second, _ = outcome.out.strip().splitlines()
    assert "dense, fp32, 0 of 8 sublayers skipped" in first
    assert second.startswith("draft: the same graph without 3 of 8 sublayers, predicts ")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--draft", "early"], "early"),
        (["--exit-layer", "2"], "requires --draft early-exit"),
        (["--draft-vocab", "64"], "requires --draft early-exit"),
        (["--draft", "early-exit"], "the profile has no sweep: add --exit-layer"),
        (["--draft", "early-exit", "--exit-layer", "4"], "the model has 4 blocks, choose 1 … 3"),
        (["--draft", "early-exit", "--exit-layer", "0"], "--exit-layer 0 is not possible"),
        (["--draft", "early-exit", "--exit-layer", "two"], "--exit-layer two is not a list of whole numbers"),
        (["--draft", "early-exit", "--exit-layer", "3,2"], "name the exits shallow first"),
        (["--draft", "early-exit", "--exit-layer", "1,2", "--target", "gguf"], "a GGUF pair has one exit"),
        (["--draft", "early-exit", "--exit-layer", "2", "--draft-vocab", "0"], "--draft-vocab 0 is not possible"),
        (["--draft", "early-exit", "--exit-layer", "2", "--draft-vocab", "321"], "--draft-vocab 321 is not possible"),
        (["--draft", "early-exit", "--exit-layer", "2", "--draft-vocab", "64"], "token counts"),
        (["--draft", "skip-plan"], "--draft skip-plan needs a plan in the profile"),
        (["--draft", "skip-plan", "--exit-layer", "2"], "--exit-layer requires --draft early-exit"),
        (["--draft", "skip-plan", "--draft-vocab", "64"], "--draft-vocab requires --draft early-exit"),
    ],
)
def test_drafts_that_cannot_be(cli: Cli, dense: Path, out: Path, options: list[str], told: str) -> None:
    assert told in refused(cli, out, dense, *options)


def test_a_profile_of_another_model(cli: Cli, profile: Path, model: Path, out: Path) -> None:
    """One byte of the weights differs: the fingerprint tells."""
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert "made for other weights" in refused(cli, out, profile)


def test_a_model_of_another_shape(cli: Cli, profile: Path, out: Path, tmp_path: Path) -> None:
    from tiny_models import tiny_checkpoint

    other = tiny_checkpoint("qwen3", tmp_path / "other", num_hidden_layers=2)
    assert "made for other weights" in refused(cli, out, profile, "--model", other)


@pytest.mark.parametrize("damage", ["truncated", "missing", "another"])
def test_vectors_that_are_not_the_profiles(cli: Cli, profile: Path, out: Path, damage: str) -> None:
    vectors = profile.with_suffix(".safetensors")
    data = vectors.read_bytes()
    if damage == "missing":
        vectors.unlink()
    else:
        vectors.write_bytes(data[: len(data) // 2] if damage == "truncated" else data[:-1] + b"\x01")
    assert "tiny.safetensors" in refused(cli, out, profile)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"skip": [f"{kind}.{i}" for i in range(4) for kind in ("attn", "ffn")]}, "keep at least one"),
        ({"skip": ["attn.4"]}, "attn.4"),
        ({"skip": ["os.system"]}, "os.system"),
        ({"compensation": "magic"}, "compensation"),
    ],
)
def test_plans_that_cannot_be(cli: Cli, profile: Path, out: Path, change: dict[str, Any], told: str) -> None:
    content = json.loads(profile.read_text())
    content["plan"].update(change)
    profile.write_text(json.dumps(content))
    assert told in refused(cli, out, profile)


@pytest.mark.parametrize("scale", [0, -1.0, 1e999])
def test_scales_that_cannot_be(cli: Cli, profile: Path, out: Path, scale: float) -> None:
    """Zero, negative and infinite: a fold would divide by them."""
    content = json.loads(profile.read_text())
    content["sublayers"][0]["prefill"]["affine_scale"] = scale
    profile.write_text(json.dumps(content))
    assert "scale" in refused(cli, out, profile)


def test_a_truncated_model(cli: Cli, profile: Path, model: Path, out: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in refused(cli, out, profile)


def test_a_model_without_a_tokenizer(cli: Cli, profile: Path, model: Path, out: Path) -> None:
    (model / "tokenizer.json").unlink()
    assert "tokenizer" in refused(cli, out, profile)


@pytest.mark.parametrize("package", ["torch", "transformers", "onnx_ir"])
def test_a_missing_extra(profile: Path, out: Path, package: str) -> None:
    """In a process of its own, where importing the package fails as where it is not installed."""
    code = f"import sys; sys.modules[{package!r}] = None; from edgeskip.cli.main import main; main()"
    arguments = ["export", "--profile", str(profile), "-o", str(out / "artifact")]
    answer = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert answer.returncode == 2, answer.stderr
    (line,) = [told for told in answer.stderr.splitlines() if " elapsed" not in told]  # besides: how far it was
    assert line.endswith("run pip install 'edgeskip[export]'")
    assert list(out.iterdir()) == []


@pytest.mark.skipif(not UNWRITABLE.is_dir(), reason="no folder here that refuses even root")
def test_an_unwritable_folder(cli: Cli, profile: Path) -> None:
    complaint = cli("export", "--profile", profile, "-o", UNWRITABLE / "artifact").complaint()
    assert complaint.startswith(str(UNWRITABLE / "artifact"))
    assert not (UNWRITABLE / "artifact").exists()


def test_an_output_below_a_file(cli: Cli, profile: Path) -> None:
    complaint = cli("export", "--profile", profile, "-o", profile / "artifact").complaint()
    assert complaint == f"cannot write to {profile}: check its permissions or choose another -o"


def test_a_mismatch(cli: Cli, profile: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is made to compare with a dense model: exit 2 and nothing there, or kept and called a mismatch."""
    from edgeskip.core.plan import Plan

    module = importlib.import_module("edgeskip.exporters.onnx.check")
    real = module.verify
    monkeypatch.setattr(
        module, "verify", lambda source, plan, *rest, **options: real(source, Plan(plan.num_blocks), *rest, **options)
    )
    assert "does not match the torch model" in refused(cli, out, profile)
    outcome = cli("export", "--profile", profile, "-o", out / "kept", "--allow-mismatch")
    assert outcome.code == 0
    assert "MISMATCH against" in outcome.out
    record = read_manifest(out / "kept").verification
    assert record is not None
    assert not record.passed


def export_command(profile: Path, target: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "edgeskip", "export", "--profile", str(profile), "-o", str(target), *options]


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize(
    "limit", [pytest.param(20_000, id="small files", marks=pytest.mark.slow), pytest.param(300_000, id="weights")]
)
def test_a_disk_that_fills_up(profile: Path, out: Path, limit: int) -> None:
    """A limit on file size fails a write as a full disk does, without root."""
    resource = pytest.importorskip("resource")
    answer = subprocess.run(
        export_command(profile, out / "artifact"),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert answer.returncode == 2, answer.stderr
    (line,) = [told for told in answer.stderr.splitlines() if " elapsed" not in told]  # besides: how far it was
    assert line.startswith(f"edgeskip: error: {out / 'artifact'}: File too large: ")
    assert list(out.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "terminated"])
@pytest.mark.parametrize("moment", ["writing", "checking"])
def test_an_interrupted_export_leaves_nothing(
    profile: Path, out: Path, tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    """The signal comes when the temporary folder appears, or when the manifest for the check is in it."""
    pattern = ".artifact.*" if moment == "writing" else ".artifact.*/edgeskip.json"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        export_command(profile, out / "artifact"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    deadline = time.monotonic() + 120
    while not list(out.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == (130 if number == signal.SIGINT else 143), err
    assert "Traceback" not in err
    assert list(out.iterdir()) == []
    assert list(scratch.glob("edgeskip*")) == []


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_gguf_file_named_without_its_target(cli: Cli, dense: Path, tmp_path: Path, options: list[str]) -> None:
    """By hand: what was left out is --target gguf, and the file stays as it was."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert "add --target gguf" in cli("export", "--profile", dense, "-o", file, *options).complaint()
    assert file.read_bytes() == b"GGUF"
