"""`edgeskip.export` of a profile that no file holds. Oracles: the artifact that the command writes from files, byte for
byte; transformers' logits of the same checkpoint; the names on the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeskip
from edgeskip.core.progress import ProgressEvent

Cli = Callable[..., Any]
TOKENS = [5, 80, 33, 100, 7, 250, 11, 42]


@pytest.fixture(scope="module")
def measured(home: Path) -> edgeskip.Profile:
    return edgeskip.calibrate("model", corpus="corpus.txt", tokens=256, context=64, decode_tokens=0)


def without_time(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    del found["created"]
    return found


def test_it_is_what_the_command_writes(cli: Cli, work: Path, measured: edgeskip.Profile) -> None:
    planned = edgeskip.plan(measured, skip=["attn.1", "ffn.2"])
    artifact = edgeskip.export(planned, work / "api", precision="int4")
    planned.save(work / "p.json")
    assert cli("export", work / "p.json", "-o", work / "cli", "--precision", "int4", "--quiet").code == 0
    assert cli("export", "--profile", work / "p.json", "-o", work / "old", "--precision", "int4").code == 0
    for other in ("cli", "old"):
        assert [file.name for file in artifact.files] == sorted(file.name for file in (work / other).iterdir())
        for file in artifact.files:
            twin = work / other / file.name
            if file.name == "edgeskip.json" or b'"created"' in file.read_bytes()[:100_000]:
                assert without_time(file) == without_time(twin)
            else:
                assert file.read_bytes() == twin.read_bytes(), file.name
    assert artifact.label == "lossy-skip"
    assert artifact.manifest.plan.skip == ["attn.1", "ffn.2"]
    assert artifact.check is not None
    assert artifact.check.passed
    assert artifact.size_bytes == sum(file.stat().st_size for file in (work / "api").iterdir())


def test_logits_are_those_of_transformers(work: Path, measured: edgeskip.Profile) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    artifact = edgeskip.export(measured, work / "dense", check=False)
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained("model", dtype=torch.float32)
        wanted = model(torch.tensor([TOKENS])).logits[0].numpy()
    with artifact.load(threads=1) as session:
        assert np.abs(session.logits(TOKENS) - wanted).max() < 1e-3
    with edgeskip.load(artifact, threads=1) as session:
        assert session.label == "dense"


def test_a_gguf_file(work: Path, measured: edgeskip.Profile) -> None:
    pytest.importorskip("gguf")
    artifact = edgeskip.export(measured, work / "tiny.gguf", target="gguf", check=False)
    assert artifact.path == work / "tiny.gguf"
    assert artifact.files == (artifact.path,)
    assert artifact.path.read_bytes()[:4] == b"GGUF"


def test_it_prints_nothing_and_reports_to_the_end(
    work: Path, measured: edgeskip.Profile, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[ProgressEvent] = []
    edgeskip.export(measured, work / "out", progress=events.append)
    assert capfd.readouterr() == ("", "")
    assert events[-1].done == events[-1].total
    assert [event.done for event in events] == sorted(event.done for event in events)


def test_interrupted_it_leaves_what_was_there(work: Path, measured: edgeskip.Profile) -> None:
    edgeskip.export(measured, work / "out", check=False)
    before = {file.name: file.read_bytes() for file in (work / "out").iterdir()}

    def stop(event: ProgressEvent) -> None:
        if event.done >= 3:
            raise KeyboardInterrupt

    for folder in ("out", "new"):
        with pytest.raises(KeyboardInterrupt):
            edgeskip.export(measured, work / folder, check=False, overwrite=True, progress=stop)
    assert [path.name for path in work.iterdir()] == ["out"]
    assert {file.name: file.read_bytes() for file in (work / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"precision": "int3"}, "int3"),
        ({"exit_layer": 2}, "early-exit"),
        ({"window": 4}, "online"),
        ({"target": "tflite"}, "tflite"),
    ],
)
def test_arguments_that_do_not_fit(work: Path, measured: edgeskip.Profile, options: dict[str, Any], told: str) -> None:
    with pytest.raises(edgeskip.EdgeSkipError, match=told):
        edgeskip.export(measured, work / "out", **options)
    assert list(work.iterdir()) == []
