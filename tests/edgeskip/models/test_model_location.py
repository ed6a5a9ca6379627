"""How a profile finds its model again. Oracle: the weights' fingerprint, after folders were moved by hand."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from random_profiles import random_profile
from tiny_lora import tiny_peft_folder
from tiny_models import tiny_checkpoint

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.locate import short_name
from edgeskip.models.location import location_for
from edgeskip.models.profile_source import source_of
from edgeskip.models.source import ModelSource, open_model
from edgeskip.profiles.schema import Profile, read_profile, write_profile

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("stored") / "hf")


@pytest.fixture
def work(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model `hf`, which is the current one."""
    shutil.copytree(stored, tmp_path / "work" / "hf")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def calibrated(reference: str, path: Path, *, location: bool = True) -> Profile:
    """A profile as calibrate writes it, with random numbers."""
    source = open_model(reference)
    profile, _ = random_profile(source, path)
    if location:
        profile = profile.model_copy(update={"model_location": location_for(source, path)})
        write_profile(profile, path)
    return profile


def found(path: Path) -> ModelSource:
    return source_of(read_profile(path), path)


@pytest.mark.parametrize("typed", ["hf", "./hf", "../work/hf", "{work}/hf", "hf/"])
def test_from_another_folder(typed: str, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = calibrated(typed.format(work=work), Path("p.json"))
    monkeypatch.chdir(tmp_path)
    assert found(work / "p.json").fingerprint == profile.model.fingerprint


def test_profile_and_model_move_together(work: Path, tmp_path: Path) -> None:
    profile = calibrated("hf", Path("profiles/p.json"))
    work.rename(tmp_path / "moved")
    assert found(tmp_path / "moved" / "profiles" / "p.json").fingerprint == profile.model.fingerprint


def test_the_profile_moves_alone(work: Path, tmp_path: Path) -> None:
    profile = calibrated("hf", Path("p.json"))
    for file in work.glob("p.*"):
        (tmp_path / "far" / "away").mkdir(parents=True, exist_ok=True)
        file.rename(tmp_path / "far" / "away" / file.name)
    assert found(tmp_path / "far" / "away" / "p.json").fingerprint == profile.model.fingerprint


def test_another_model_in_the_old_place_is_not_taken(work: Path, tmp_path: Path) -> None:
    """Copied beside another `hf`: the one with the right weights, where it was, counts."""
    profile = calibrated("hf", Path("p.json"))
    tiny_checkpoint("llama", tmp_path / "other" / "hf", seed=7)
    for file in work.glob("p.*"):
        shutil.copy(file, tmp_path / "other")
    assert found(tmp_path / "other" / "p.json").fingerprint == profile.model.fingerprint


def test_links(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to the model, a link to the profile's folder, a link to the profile: each is a way to it."""
    (work / "link").symlink_to(work / "hf")
    profile = calibrated("link", Path("inside/p.json"))
    assert profile.model.name == "link"
    (tmp_path / "folder").symlink_to(work / "inside")
    (tmp_path / "linked.json").symlink_to(work / "inside" / "p.json")
    monkeypatch.chdir(tmp_path)
    work.rename(tmp_path / "again")
    (tmp_path / "folder").unlink()
    (tmp_path / "folder").symlink_to(tmp_path / "again" / "inside")
    (tmp_path / "again" / "link").unlink()
    (tmp_path / "again" / "link").symlink_to("hf")
    assert found(tmp_path / "folder" / "p.json").fingerprint == profile.model.fingerprint


def test_home(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(work))
    profile = calibrated("~/hf", Path("p.json"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert found(work / "p.json").fingerprint == profile.model.fingerprint


def test_windows_spelling(work: Path) -> None:
    """A profile of an older version, made on Windows: only what was typed is known."""
    (work / "models").mkdir()
    (work / "hf").rename(work / "models" / "hf")
    profile = calibrated("models/hf", Path("p.json"), location=False)
    changed = profile.model.model_copy(update={"source": "models\\hf"})
    write_profile(profile.model_copy(update={"model": changed}), Path("p.json"))
    assert found(work / "p.json").fingerprint == profile.model.fingerprint


def test_profiles_of_older_versions(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a location: as it was typed, from the current folder and then from the profile's."""
    profile = calibrated("hf", Path("p.json"), location=False)
    assert "model_location" not in json.loads(Path("p.json").read_text())
    assert found(Path("p.json")).fingerprint == profile.model.fingerprint
    monkeypatch.chdir(tmp_path)
    assert found(work / "p.json").fingerprint == profile.model.fingerprint


@pytest.mark.parametrize("location", [True, False])
def test_what_was_tried_is_said(location: bool, work: Path, tmp_path: Path) -> None:
    calibrated("hf", Path("p.json"), location=location)
    (work / "hf").rename(tmp_path / "gone")
    with pytest.raises(EdgeSkipError) as caught:
        found(Path("p.json"))
    assert str(caught.value) == f"the model of p.json, 'hf', is not there (tried {work / 'hf'}): name it with --model"
    profile = read_profile(Path("p.json"))
    assert source_of(profile, Path("p.json"), str(tmp_path / "gone")).fingerprint == profile.model.fingerprint


def test_a_path_like_a_hub_id_is_never_fetched(work: Path, tmp_path: Path) -> None:
    (work / "models").mkdir()
    (work / "hf").rename(work / "models" / "hf")
    calibrated("models/hf", Path("p.json"))
    (work / "models").rename(tmp_path / "gone")
    with pytest.raises(EdgeSkipError, match=r"'models/hf', is not there \(tried .*--model"):
        found(Path("p.json"))


def test_names_have_no_location(work: Path) -> None:
    source = open_model("hf")
    for name in ("smollm2-135m-instruct", "org/name"):
        assert location_for(ModelSource(name, source.path, "x", source.checkpoint), work / "p.json") is None


def test_written_elsewhere_it_points_from_there(work: Path, tmp_path: Path) -> None:
    profile = calibrated("hf", Path("p.json"))
    moved = profile.moved(Path("p.json"), tmp_path / "x" / "q.json").model_location
    assert moved is not None
    assert (moved.relative, moved.absolute) == ("../work/hf", str(work / "hf"))


def test_the_base_of_a_lora(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_peft_folder(work / "hf", work / "trained")
    profile = calibrated("trained", Path("p.json"))
    assert profile.model_location is not None
    assert profile.model_location.relative == "hf"
    monkeypatch.chdir(tmp_path)
    assert found(work / "p.json").fingerprint == profile.model.fingerprint


def test_the_commands(cli: Cli, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """calibrate here; plan, inspect and export from another folder."""
    (work / "text.txt").write_text("The river runs past the mill and the mill turns.\n" * 80)
    options = ("--tokens", 128, "--context", 64, "--decode-tokens", 0, "--corpus", "text.txt")
    assert cli("calibrate", "hf", *options, "-o", "p.json").code == 0
    monkeypatch.chdir(tmp_path)
    assert cli("plan", "work/p.json", "--skip", "ffn.1", "-o", "plans/q.json").code == 0
    assert str(work / "hf") in "".join(cli("inspect", "plans/q.json").out.split())
    outcome = cli("export", "--profile", "plans/q.json", "-o", "out", "--no-check")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("models--org--Name-1B/snapshots/" + "0" * 40, "Name-1B"),
        ("models--org--Name-1B", "Name-1B"),
        ("models--gpt2/snapshots/" + "0" * 40, "gpt2"),
        ("models--org--a--b/snapshots/main", "a--b"),
        ("snapshots/mine", "mine"),
        ("models/checkpoint-5", "checkpoint-5"),
    ],
)
def test_names_of_the_hub_cache(folder: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / folder).mkdir(parents=True)
    assert short_name(tmp_path / folder) == name
    monkeypatch.chdir(tmp_path / folder)
    assert short_name(Path()) == name


def test_a_gguf_of_the_hub_cache_is_called_by_its_link(tmp_path: Path) -> None:
    blob = tmp_path / "models--o--n" / "blobs" / ("0" * 64)
    link = tmp_path / "models--o--n" / "snapshots" / "1" / "Llama-1B.Q4_1.gguf"
    for path in (blob, link):
        path.parent.mkdir(parents=True)
    blob.touch()
    link.symlink_to(os.path.relpath(blob, link.parent))
    assert short_name(link) == "Llama-1B"
