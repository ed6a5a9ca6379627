"""An artifact whose files are not those that were exported. Oracle: what was done to them; hashlib."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from accepted import accept_changes
from tiny_graph import TinyArtifact, build_tiny_artifact

import edgeskip
from edgeskip.artifacts import files as artifact_files
from edgeskip.artifacts.files import check_files
from edgeskip.artifacts.manifest import read_manifest
from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.bench.targets import load_target
from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiling.measure import open_dense

Cli = Callable[..., object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyArtifact:
    tiny = build_tiny_artifact(tmp_path_factory.mktemp("made") / "artifact")
    (tiny.folder / "generation_config.json").write_text("{}")
    (tiny.folder / "chat_template.jinja").write_text("{{ messages }}")
    (tiny.folder / "draft_tokens.npy").write_bytes(b"whatever an export may write")
    accept_changes(tiny.folder)
    return tiny


@pytest.fixture
def folder(made: TinyArtifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.folder, tmp_path / "artifact"))


def swap_two_tokens(path: Path) -> None:
    """As in the report: another token's text, the same number of bytes."""
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content))


def test_what_was_exported_is_opened(folder: Path) -> None:
    with edgeskip.load(folder, threads=1) as session:
        assert len(session.generate([1, 2, 3], max_tokens=3).tokens) == 3


@pytest.mark.parametrize(
    "opened",
    [
        lambda path: edgeskip.load(path, threads=1),
        lambda path: open_dense(path, threads=1),
        load_target,
    ],
    ids=["load", "profile-device", "bench"],
)
def test_two_swapped_tokens(folder: Path, opened: Callable[[Path], object]) -> None:
    swap_two_tokens(folder / "tokenizer.json")
    with pytest.raises(EdgeSkipError, match=r"tokenizer\.json is not the file its manifest names .*: restore"):
        opened(folder)


@pytest.mark.parametrize(
    "name",
    sorted(
        [
            "model.onnx",
            "model.onnx.data",
            "generation_config.json",
            "chat_template.jinja",
            "draft_tokens.npy",
            "tokenizer_config.json",
        ]
    ),
)
@pytest.mark.parametrize("damage", ["one bit", "cut", "longer", "empty", "missing", "a folder"])
def test_every_listed_file(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    data = path.read_bytes()
    path.unlink()
    match damage:
        case "one bit":
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "cut":
            path.write_bytes(data[:-1])
        case "longer":
            path.write_bytes(data + b"\n")
        case "empty":
            path.touch()
        case "a folder":
            path.mkdir()
    with pytest.raises(EdgeSkipError, match=rf"{name} is (missing|not the file its manifest names)"):
        edgeskip.load(folder, threads=1)


@pytest.mark.parametrize("name", ["added_tokens.json", "special_tokens_map.json", "config.json", "chat_template.json"])
def test_a_file_that_came_later_and_would_be_read(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    with pytest.raises(EdgeSkipError, match=rf"{name} is not among the files of the artifact"):
        edgeskip.load(folder, threads=1)


def test_a_file_that_came_later_and_is_nobodys(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / ".DS_Store").write_text("")
    edgeskip.load(folder, threads=1).close()


def test_a_manifest_that_lists_little(folder: Path) -> None:
    """As one made by hand, or by an earlier version: what it lists counts."""
    content = json.loads((folder / MANIFEST_NAME).read_text())
    content["files"] = {"model.onnx": content["files"]["model.onnx"]}
    (folder / MANIFEST_NAME).write_text(json.dumps(content))
    swap_two_tokens(folder / "tokenizer.json")
    edgeskip.load(folder, threads=1).close()


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "sub/file", "..", "."])
def test_names_that_lead_elsewhere(folder: Path, name: str) -> None:
    content = json.loads((folder / MANIFEST_NAME).read_text())
    content["files"][name] = "0" * 64
    (folder / MANIFEST_NAME).write_text(json.dumps(content))
    with pytest.raises(EdgeSkipError, match="outside its folder"):
        check_files(folder, read_manifest(folder))


def test_weights_are_not_hashed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_files, "HASHED_BYTES", 100)
    swap_two_tokens(folder / "tokenizer.json")
    check_files(folder, read_manifest(folder))
