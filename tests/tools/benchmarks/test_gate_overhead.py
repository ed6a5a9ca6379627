"""The tool that measures what open gates cost. Oracle: ratios worked out by hand, and a tiny model's run."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
import typer
from gate_overhead import Taken, as_json, as_markdown, gate_overhead, rows_of
from random_profiles import random_profile

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.onnx.export import ExportPolicy, export_onnx
from edgeskip.exporters.onnx.formats import weight_format
from edgeskip.exporters.options import OnlineRequest
from edgeskip.models.source import open_model

SETTING = {
    **{"model": "M", "precision": "int4", "gates": 3, "context": 8, "threads": 1, "rounds": 3, "created": "now"},
    "others_cores": 0.5,
}


def test_ratios_are_paired_by_round() -> None:
    """The machine slows down; gates take 2 % of each prompt and 4 % of each step, and once far less."""
    static = [Taken(1.0, 0.1), Taken(2.0, 0.2), Taken(4.0, 0.4)]
    online = [Taken(1.02, 0.104), Taken(2.04, 0.208), Taken(4.0, 0.2)]
    prompt, step = rows_of(static, online)
    assert (prompt.ratio.median, prompt.ratio.low, prompt.met) == (pytest.approx(1.02), 1.0, True)
    assert (step.ratio.median, step.ratio.low, step.met) == (pytest.approx(1.04), 0.5, False)
    lines = as_markdown([prompt, step], SETTING).splitlines()
    assert lines[4:6] == [
        "| prefill | 2000.000 | 2040.000 | 1.0200 [1.0000 – 1.0200] | ok |",
        "| decode | 200.000 | 200.000 | 1.0400 [0.5000 – 1.0400] | NO |",
    ]
    assert lines[-1].startswith("Doubtful: other processes kept 0.50 cores busy")
    assert [row["met"] for row in json.loads(json.dumps(as_json([prompt, step], SETTING)))["rows"]] == [True, False]


@pytest.fixture(scope="module")
def folders(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    path = tmp_path_factory.mktemp("gates")
    source = open_model(str(tiny_llama))
    profile, vectors = random_profile(source, path / "p.json")
    for name, online in (("static", None), ("online", OnlineRequest(4, 0.0))):
        policy = ExportPolicy(check=False)
        export_onnx(source, profile, vectors, weight_format("fp32"), path / name, online=online, policy=policy)
    return path / "static", path / "online"


@pytest.mark.slow
def test_from_end_to_end(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No bound holds for a tiny model; what was measured is written whether it is met or not."""
    with suppress(typer.Exit):
        gate_overhead(*folders, rounds=2, context=8, new=4, threads=1, json_file=tmp_path / "gates.json")
    found = json.loads((tmp_path / "gates.json").read_text())
    assert [row["phase"] for row in found["rows"]] == ["prefill", "decode"]
    assert found["setting"]["gates"] == 4
    assert "4 gates; context 8" in capsys.readouterr().out


def test_only_the_gates_may_differ(folders: tuple[Path, Path], tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeSkipError, match="name the artifact without gates first"):
        gate_overhead(*reversed(folders), rounds=1, threads=1)
    source = open_model(str(tiny_llama))
    profile, vectors = random_profile(source, tmp_path / "p.json", skip=("attn.1",))
    policy = ExportPolicy(check=False)
    export_onnx(source, profile, vectors, weight_format("fp32"), tmp_path / "other", policy=policy)
    with pytest.raises(EdgeSkipError, match="differ in more than the gates"):
        gate_overhead(tmp_path / "other", folders[1], rounds=1, threads=1)
