"""The GPU report, tried without a GPU by `--provider cpu`. Oracle: numpy over the tiny artifact, by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gpu_report
import onnxruntime
import pytest
from tiny_graph import build_tiny_artifact
from tiny_models import tiny_checkpoint

from edgeskip.core.errors import EdgeSkipError

TOOLS = Path(gpu_report.__file__).parents[1]


def test_parity_with_itself_is_perfect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build_tiny_artifact(tmp_path / "tiny").folder
    monkeypatch.setattr(gpu_report, "PARITY_TOKENS", 40)
    found = gpu_report.parity_of(folder, folder, "cpu")
    assert (found.max_difference, found.top1_agreement) == (0.0, 1.0)
    assert found.kl_divergence == pytest.approx(0, abs=1e-6)


def test_replayed_steps_are_measured_beside_plain_ones_on_cuda_only() -> None:
    assert gpu_report._variants("cuda") == ("cuda", "cuda:graphs")
    assert gpu_report._variants("cpu") == ("cpu",)


def test_same_tokens_needs_two_to_compare(tmp_path: Path) -> None:
    folder = build_tiny_artifact(tmp_path / "tiny").folder
    assert gpu_report.same_tokens(folder, ["cpu"], 1, 4) is None
    assert gpu_report.same_tokens(folder, ["cpu", "cpu"], 1, 4) is True


def test_without_a_gpu_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_report, "nvidia_gpus", tuple)
    with pytest.raises(EdgeSkipError, match="nvidia-smi finds no GPU here"):
        gpu_report.gpu_report(provider="cuda", work=tmp_path)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(TOOLS / "gpu_report.sh")], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("gpu_report: nvidia-smi finds no GPU here")


@pytest.mark.slow
def test_the_whole_of_it_on_the_cpu(tmp_path: Path) -> None:
    """A tiny checkpoint through calibration, export, parity, the lossless check, the bench and transformers."""
    model = tiny_checkpoint("llama", tmp_path / "model", num_hidden_layers=8)
    out = tmp_path / "out.json"
    command = [sys.executable, str(TOOLS / "benchmarks" / "gpu_report.py"), "--model", str(model), "--provider", "cpu"]
    command += ["--precision", "fp32", "-r", "1", "-p", "16", "-n", "8", "-d", "32", "--num-prompts", "1"]
    command += ["--calibration-tokens", "512", "--draft-tokens", "64", "--work", str(tmp_path / "work"), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())["data"]
    assert [p["artifact"] for p in found["parity"]] == ["dense-fp32", "skip8-fp32", "exit4-fp32"]
    assert found["parity"][0]["kl_divergence"] < 1e-6
    assert found["lossless"]["parts_at"] == []
    assert len(found["peers"]["transformers eager"]["runs"]) == 1
    assert {line["kind"] for line in found["bench"]} == {"run", "target", "device", "sample"}


def test_on_a_gpu(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu and an NVIDIA GPU")
    folder = build_tiny_artifact(tmp_path / "tiny").folder
    assert gpu_report.parity_of(folder, folder, "cuda").top1_agreement > 0.95
    assert gpu_report.same_tokens(folder, ["cuda", "cuda:graphs"], 1, 8)
