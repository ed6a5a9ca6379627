"""Fixtures of the tools' tests. The scripts are run from their folders, not installed, so these are put on the path."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
BENCHMARKS = TOOLS / "benchmarks"
for folder in (TOOLS, BENCHMARKS, BENCHMARKS / "harness" / "workers", Path(__file__).parents[1] / "runtime"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@pytest.fixture(scope="session")
def tiny_early_exit(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifact of the tiny Llama that drafts with its first block and its own head; read only."""
    from drafting_artifacts import EXIT_LAYER, early_exit_artifact

    from edgeskip.exporters.onnx.sidecars import write_sidecars
    from edgeskip.models.source import open_model

    source = open_model(str(tiny_llama))
    folder = tmp_path_factory.mktemp("tools") / "early-exit"
    manifest = early_exit_artifact(source, folder, [EXIT_LAYER])
    source.write_tokenizer(folder)
    write_sidecars(source, manifest.graph, folder)
    (folder / "edgeskip.json").write_text(manifest.model_dump_json())
    return folder


@pytest.fixture
def prompt_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """EDGESKIP_DATA with three prompts of each kind."""
    folder = tmp_path / "data"
    folder.mkdir()
    spec = [{"question_id": i, "turns": [f"Measure {i} foxes."]} for i in range(3)]
    code = [{"task_id": f"HumanEval/{i}", "prompt": f"def skip_{i}(model):\n"} for i in range(3)]
    for name, records in (("spec_bench", spec), ("humaneval", code)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    monkeypatch.setenv("EDGESKIP_DATA", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_online(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense artifact with gates whose answers have no end token; read only."""
    from accepted import accept_changes
    from exports import export_onnx
    from random_profiles import random_profile

    from edgeskip.exporters.onnx.formats import weight_format
    from edgeskip.exporters.options import ExportPolicy, OnlineRequest
    from edgeskip.models.source import open_model

    source, folder = open_model(str(tiny_llama)), tmp_path_factory.mktemp("online")
    profile, vectors = random_profile(source, folder / "p.json")
    policy, request = ExportPolicy(check=False), OnlineRequest(4, 0.8)
    export_onnx(source, profile, vectors, weight_format("fp32"), folder / "on", policy=policy, online=request)
    for name in ("generation_config.json", "config.json"):
        (folder / "on" / name).write_text("{}", encoding="utf-8")
    config = folder / "on" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token": None}), encoding="utf-8")
    accept_changes(folder / "on")
    return folder / "on"
