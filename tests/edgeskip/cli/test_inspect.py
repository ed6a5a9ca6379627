"""`edgeskip inspect`. Oracle: the profile and artifact that conftest.py makes by hand; matplotlib's own axes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeskip.profiles.schema import read_profile

Cli = Callable[..., Any]


def test_profile_as_text(cli: Cli, profile_path: Path) -> None:
    outcome = cli("inspect", profile_path)
    assert outcome.code == 0
    assert "explicit, compensation scale: lossy-skip, 2 of 8 sublayers: attn.1, ffn.2" in " ".join(outcome.out.split())
    rows = {line.split()[0]: line.split() for line in outcome.out.splitlines() if line.split()[:1] and "0." in line}
    assert rows["1"] == ["1", "0.9200", "0.8200", "1.050", "skip", "0.9300", "0.8300", "1.050"]
    assert rows["2"] == ["2", "0.9400", "0.8400", "1.050", "0.9500", "0.8500", "1.050", "skip"]
    assert rows["3"] == ["3", "0.9600", "0.8600", "1.050", "0.9700", "0.8700", "1.050"]


def test_profile_as_json_is_the_profile_and_its_label(cli: Cli, profile_path: Path) -> None:
    report = json.loads(cli("inspect", profile_path, "--json").out)
    assert (report["kind"], report["label"], report["problem"]) == ("profile", "lossy-skip", None)
    assert report["sublayers"] == read_profile(profile_path).model_dump(mode="json")["sublayers"]


def test_vectors_that_are_not_the_profiles(cli: Cli, profile_path: Path) -> None:
    profile_path.with_suffix(".safetensors").write_bytes(b"other")
    outcome = cli("inspect", profile_path)
    assert "0.9200" in outcome.out  # what can be read is still shown
    assert "does not match the sha256" in outcome.complaint()


def test_artifact_as_text(cli: Cli, artifact_path: Path) -> None:
    outcome = cli("inspect", artifact_path)
    text = " ".join(outcome.out.split())
    assert outcome.code == 0
    for expected in (
        "label lossy-skip",
        "precision int4 (block_size 32), KV cache float32",
        "skipped 2 of 8 sublayers (explicit): attn.1, ffn.2",
        "compensation scale",
        "passed (KL at most 0.1 nats)",
        "top-1 agreement 95.0%",
        "model.onnx.data 7.0 kB ok",
    ):
        assert expected in text


def test_artifact_as_json(cli: Cli, artifact_path: Path) -> None:
    report = json.loads(cli("inspect", artifact_path, "--json").out)
    assert (report["kind"], report["label"], report["size_bytes"]) == ("artifact", "lossy-skip", 5 + 7000 + 2)
    assert {file["name"]: file["state"] for file in report["files"]} == {
        "config.json": "ok",
        "model.onnx": "ok",
        "model.onnx.data": "ok",
    }


def test_damaged_missing_and_foreign_files_are_told(cli: Cli, artifact_path: Path) -> None:
    (artifact_path / "model.onnx.data").write_bytes(b"Weights" * 1000)
    (artifact_path / "config.json").unlink()
    (artifact_path / "notes.txt").write_text("mine")
    outcome = cli("inspect", artifact_path, "--json")
    states = {file["name"]: file["state"] for file in json.loads(outcome.out)["files"]}
    assert states == {
        "config.json": "missing",
        "model.onnx": "ok",
        "model.onnx.data": "damaged",
        "notes.txt": "not listed",
    }
    assert "config.json (missing), model.onnx.data (damaged)" in outcome.complaint()


def test_no_verify_reads_no_weights_and_says_so(cli: Cli, artifact_path: Path) -> None:
    (artifact_path / "model.onnx.data").write_bytes(b"Weights" * 1000)
    outcome = cli("inspect", artifact_path, "--no-verify")
    assert outcome.code == 0
    assert "not checked" in outcome.out


def test_a_manifest_that_points_outside_its_folder_is_refused(cli: Cli, artifact_path: Path) -> None:
    path = artifact_path / "edgeskip.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../secret"] = "0" * 64
    path.write_text(json.dumps(manifest))
    complaint = cli("inspect", artifact_path).complaint()
    assert "../secret" in complaint


def test_plot_draws_every_sublayer_and_marks_the_skipped(
    cli: Cli, profile_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure_module = pytest.importorskip("matplotlib.figure")
    drawn: list[Any] = []
    save = figure_module.Figure.savefig
    monkeypatch.setattr(
        figure_module.Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    target = tmp_path / "figures" / "similarity.png"
    outcome = cli("inspect", profile_path, "--plot", target)
    assert outcome.code == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    for panel, phase, base in zip(drawn[0].axes, ("prefill", "decode"), (0.90, 0.80), strict=True):
        assert panel.get_title().startswith(phase)
        lines = {line.get_label(): line for line in panel.get_lines()}
        assert list(lines["attention"].get_ydata()) == pytest.approx([base, base + 0.02, base + 0.04, base + 0.06])
        assert list(lines["FFN"].get_ydata()) == pytest.approx([base + 0.01, base + 0.03, base + 0.05, base + 0.07])
        assert sorted(zip(lines["skipped"].get_xdata(), lines["skipped"].get_ydata(), strict=True)) == [
            (1, pytest.approx(base + 0.02)),
            (2, pytest.approx(base + 0.05)),
        ]


def test_a_picture_carries_itself_in_words(cli: Cli, profile_path: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    cli("inspect", profile_path, "--plot", tmp_path / "a.png")
    words = image.open(tmp_path / "a.png").text["Description"]
    assert "attention, prefill: from 0.900 (attn.0) to 0.960 (attn.3)" in words
    assert "Skipped: attn.1, ffn.2" in words


def test_a_profile_without_a_decode_phase_can_be_drawn(cli: Cli, profile_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    profile = json.loads(profile_path.read_text())
    for sublayer in profile["sublayers"]:
        del sublayer["decode"]
    profile_path.write_text(json.dumps(profile))
    assert cli("inspect", profile_path, "--plot", tmp_path / "a.svg").code == 0
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_plots_that_cannot_be(
    cli: Cli, profile_path: Path, artifact_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not a profile" in cli("inspect", artifact_path, "--plot", "a.png").complaint()
    assert ".png, .svg, .pdf" in cli("inspect", profile_path, "--plot", tmp_path / "a.xlsx").complaint()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for module in [name for name in sys.modules if name.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, module)
    complaint = cli("inspect", profile_path, "--plot", tmp_path / "a.png").complaint()
    assert "pip install 'edgeskip[plot]'" in complaint
    assert not (tmp_path / "a.png").exists()
