"""What a named folder stands for. Oracle: the files that `edgeskip export` itself wrote, run by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from random_profiles import random_profile
from talking_gguf import talking_gguf
from tiny_lora import tiny_peft_folder
from tiny_models import tiny_checkpoint

from edgeskip.artifacts.location import artifact_at
from edgeskip.artifacts.target_names import told_apart
from edgeskip.bench.targets import load_target
from edgeskip.core.errors import EdgeSkipError
from edgeskip.evaluation.runner import identity
from edgeskip.models.source import open_model

Cli = Callable[..., Any]


@pytest.fixture
def profile(tiny_llama: Path, tmp_path: Path) -> Path:
    path = tmp_path / "p.json"
    random_profile(open_model(str(tiny_llama)), path, skip=("ffn.3",))
    return path


def _export(cli: Cli, profile: Path, output: Path, *options: str | Path) -> Path:
    outcome = cli("export", "--profile", profile, "-o", output, "--no-check", *options)
    assert outcome.code == 0, outcome.err
    return output


@pytest.mark.parametrize(
    "options",
    [(), ("--draft", "early-exit", "--exit-layer", "2"), ("--draft", "skip-plan")],
    ids=["one file", "pair", "draft"],
)
def test_the_folder_that_export_wrote_runs(options: tuple[str, ...], cli: Cli, profile: Path, tmp_path: Path) -> None:
    folder = _export(cli, profile, tmp_path / "out", "--target", "gguf", *options)
    file = artifact_at(folder)
    by_file, by_folder = (cli("run", path, "-p", "The river", "--max-tokens", 4, "--json") for path in (file, folder))
    assert by_folder.code == 0, by_folder.err
    assert by_folder.out.split('"stats"')[0] == by_file.out.split('"stats"')[0]
    inspected = cli("inspect", folder)
    assert inspected.code == 0, inspected.err
    assert (load_target(folder).path, load_target(folder).name) == (str(file), "out")
    assert identity(folder) == identity(file)
    assert "-rest-" not in file.name


def test_several_are_to_choose_from(cli: Cli, profile: Path, tmp_path: Path) -> None:
    folder = _export(cli, profile, tmp_path / "both", "--target", "onnx,gguf")
    (gguf,) = folder.glob("*.gguf")
    complaint = cli("run", folder, "-p", "x").complaint()
    assert complaint == f"{folder} holds several artifacts: name one of {folder / 'onnx'}, {gguf}"
    gguf.unlink()
    assert f"name the one in it, {folder / 'onnx'}" in cli("inspect", folder).complaint()


def test_ggufs_of_others(tmp_path: Path) -> None:
    """Of a split model the first file counts; a projector is no model."""
    first, _ = talking_gguf(tmp_path / "m-00001-of-00002.gguf")
    for name in ("m-00002-of-00002.gguf", "mmproj-m.gguf"):
        shutil.copy(first, tmp_path / name)
    assert artifact_at(tmp_path) == first
    shutil.copy(first, tmp_path / "other.gguf")
    with pytest.raises(EdgeSkipError, match=r"name one of .*m-00001-of-00002\.gguf, .*other\.gguf"):
        artifact_at(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "peft", "config", "weights"])
@pytest.mark.parametrize("command", [("run", "-p", "x"), ("inspect",), ("bench",), ("eval",)], ids=lambda c: c[0])
def test_a_model_is_not_an_artifact(kind: str, command: tuple[str, ...], cli: Cli, tmp_path: Path) -> None:
    model = tiny_checkpoint("llama", tmp_path / "Tiny Model")
    given = {"folder": model, "config": model / "config.json", "weights": model / "model.safetensors"}.get(kind)
    if given is None:
        given = tiny_peft_folder(model, tmp_path / "trained")
    elif kind != "folder" and command[0] == "inspect":
        pytest.skip("inspect takes a .json for a profile")
    data = tmp_path / "t.txt"
    data.write_text("The river runs past the mill. " * 400)
    extra = ("--data", data) if command[0] == "eval" else ()
    complaint = cli(command[0], given, *command[1:], *extra).complaint()
    assert "is a model, not an artifact; calibrate and export it first: edgeskip calibrate " in complaint
    assert "&& edgeskip export --profile" in complaint


def test_a_profile_is_not_an_artifact(cli: Cli, profile: Path) -> None:
    assert f"export it first, with edgeskip export --profile {profile}" in cli("run", profile, "-p", "x").complaint()


def test_a_ready_models_name(cli: Cli) -> None:
    assert "edgeskip calibrate smollm2-135m-instruct" in cli("run", "smollm2-135m-instruct", "-p", "x").complaint()


def test_targets_are_told_apart(tmp_path: Path) -> None:
    """As a person would: the suffix where it differs, else the folders above; names that were given stay."""
    for folder in ("a/m", "b/m", "b/x/m"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("a/m.gguf", "b/m.gguf"):
        (tmp_path / file).touch()

    def names(*paths: str, given: str | None = None) -> list[str]:
        return told_apart([tmp_path / path for path in paths], [given, *[None] * (len(paths) - 1)])

    assert names("a/m", "a/m.gguf") == ["m", "m.gguf"]
    assert names("a/m", "b/m") == ["a/m", "b/m"]
    assert names("a/m", "b/m", "b/x/m") == ["a/m", "b/m", "x/m"]
    assert names("a/m", "a/m.gguf", "b/m.gguf") == ["m", "a/m.gguf", "b/m.gguf"]
    assert names("a/m.gguf", "b/m", given="m") == ["m", "b/m"]
    assert names("a/m", "a/m") == ["m", "m"]  # refused where targets are read
    assert names("a/m", "b/../a/m") == ["m", "m"]
    (tmp_path / "linked.gguf").symlink_to(tmp_path / "a" / "m.gguf")  # as in the Hugging Face cache
    assert names("linked.gguf", "b/m") == ["linked", "m"]


def test_bench_takes_a_folder_and_a_file_of_one_stem(tiny_llama: Path, cli: Cli, profile: Path, tmp_path: Path) -> None:
    folder = _export(cli, profile, tmp_path / "smollm2")
    file = _export(cli, profile, tmp_path / "smollm2.gguf", "--target", "gguf")
    options = ("-p", 8, "-n", 2, "-r", 1, "-t", 1, "--no-quality", "--num-prompts", 0, "--log", tmp_path / "log.jsonl")
    outcome = cli("bench", folder, file, *options)
    assert outcome.code == 0, outcome.err
    assert "smollm2.gguf" in outcome.out
