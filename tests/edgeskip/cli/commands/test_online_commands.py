"""`--online` from export to run and inspect. Oracles: the manifest that was written, exit codes, the session's own
answer, and by hand which FFNs are near β."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from random_profiles import random_profile

import edgeskip
from edgeskip.artifacts.manifest import read_manifest
from edgeskip.models.source import open_model

Cli = Callable[..., Any]
SIMILARITY = {"ffn.0": 0.95, "ffn.1": 0.99, "ffn.2": 0.5, "ffn.3": 0.93}
EXPORT = ("--online", "--beta", "0.94", "--window", "3")  # gates: ffn.0, and ffn.3 within the margin


@pytest.fixture
def profile(tiny_llama: Path, tmp_path: Path) -> Path:
    """It skips ffn.1, says no β, and thinks ffn.2 far from the others."""
    path = tmp_path / "tiny.json"
    random_profile(open_model(str(tiny_llama)), path, skip=("ffn.1",))
    content = json.loads(path.read_text())
    for sublayer in content["sublayers"]:
        sublayer["prefill"]["similarity"] = SIMILARITY.get(sublayer["name"], 0.999)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def artifact(cli: Cli, profile: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    outcome = cli("export", "--profile", profile, "-o", folder, *EXPORT, "--no-check")
    assert outcome.code == 0, outcome.err
    return folder


def test_an_export_says_what_it_gates(cli: Cli, profile: Path, tmp_path: Path) -> None:
    outcome = cli("export", "--profile", profile, "-o", tmp_path / "out", *EXPORT)
    assert outcome.code == 0, outcome.err
    first, second, third, fourth, _ = outcome.out.strip().splitlines()
    assert "lossy-skip, fp32, 1 of 8 sublayers skipped" in first
    assert second.startswith("online: of 2 FFNs")
    assert "0.9400" in second
    assert "first 3 tokens" in second
    assert third.startswith("checked against transformers ")
    assert fourth.startswith("cost against the dense model: perplexity ")
    manifest = read_manifest(tmp_path / "out")
    assert manifest.label == "lossy-skip"
    assert manifest.online is not None
    assert manifest.online.model_dump() == {"window": 3, "threshold": 0.94, "ffns": ["ffn.0", "ffn.3"]}
    assert manifest.verification is not None
    assert manifest.verification.passed


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--online", "--beta", "0.9", "--draft", "skip-plan"], "--online and --draft skip-plan do not go together"),
        (["--online"], "--online needs a threshold and the profile's plan has none: add --beta"),
        (["--online", "--beta", "0.98"], "ffn.0 is the most similar, 0.9500, far below β = 0.98: lower --beta"),
        (["--online", "--beta", "1.5"], "--beta 1.5 is not a similarity"),
        (["--online", "--beta", "0.9", "--window", "0"], "--window 0 is not possible"),
        (["--beta", "0.9"], "--beta 0.9 requires --online"),
        (["--window", "9"], "--window 9 requires --online"),
    ],
)
def test_exports_that_cannot_be(cli: Cli, profile: Path, tmp_path: Path, options: list[str], told: str) -> None:
    assert told in cli("export", "--profile", profile, "-o", tmp_path / "out", *options).complaint()
    assert not (tmp_path / "out").exists()


def test_run_tells_what_it_left_out(cli: Cli, artifact: Path) -> None:
    with edgeskip.load(artifact, threads=1) as session:
        expected = session.generate("hey", max_tokens=12, online=edgeskip.Online(threshold=-1.0))
    options = ("-p", "hey", "--threads", "1", "--max-tokens", "12", "--strategy", "online", "--beta", "-1")
    outcome = cli("run", artifact, *options, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert (found["label"], found["strategy"]) == ("lossy-skip", "online")
    assert found["tokens"] == list(expected.tokens)
    assert expected.stats.online is not None
    online = found["stats"]["online"]
    assert online["gated"] == ["ffn.0", "ffn.3"]  # those with a gate, however low β
    assert (online["window"], online["threshold"], online["watched_steps"]) == (3, -1.0, 3)
    assert online["gated_steps"] == expected.stats.online.gated_steps > 0
    assert online["similarity"] == pytest.approx(expected.stats.online.similarity)
    assert list(online["scale"]) == ["ffn.0", "ffn.3"]


def test_run_refuses_what_has_no_gates(cli: Cli, profile: Path, tmp_path: Path) -> None:
    folder = tmp_path / "static"
    assert cli("export", "--profile", profile, "-o", folder, "--no-check").code == 0
    complaint = cli("run", folder, "-p", "hey", "--strategy", "online").complaint()
    assert "edgeskip export --online" in complaint


def test_inspect_shows_it(cli: Cli, artifact: Path) -> None:
    text = " ".join(cli("inspect", artifact).out.split())
    assert "online 2 FFNs can be skipped while it runs: those of similarity ≥ 0.9400 over the first 3 tokens" in text
    report = json.loads(cli("inspect", artifact, "--json").out)
    assert report["online"] == {"window": 3, "threshold": 0.94, "ffns": ["ffn.0", "ffn.3"]}
