"""Which files go along with a GGUF file. Oracle: what its manifest names, the parts of a split one."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeskip.artifacts.gguf.manifest import GgufManifest
from edgeskip.artifacts.manifest import read_manifest
from edgeskip.bench.devices.ssh.transfer import list_artifact_files
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of

gguf = pytest.importorskip("gguf")


def write(path: Path, manifest: GgufManifest | None = None) -> Path:
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    for key, value in (manifest.to_metadata() if manifest else {}).items():
        writer.add_string(key, value)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def manifest(artifact_path: Path) -> GgufManifest:
    onnx = read_manifest(artifact_path)
    return GgufManifest(
        label="draft-only",
        part="first",
        exit_layer=2,
        precision="F32",
        model=onnx.model,
        plan=onnx.plan,
        inputs={},
        versions={},
        created="2025-01-01T00:00:00Z",
    )


def test_a_file_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    artifact = list_artifact_files(path)
    assert (artifact.key, artifact.opened) == (sha256_of(path), "m.gguf")
    assert [(file.path, file.size) for file in artifact.files] == [(path, path.stat().st_size)]


def test_the_files_it_is_opened_with(tmp_path: Path, manifest: GgufManifest) -> None:
    for name in ("rest.gguf", "head.gguf", "unrelated.gguf"):
        write(tmp_path / name)
    named = manifest.model_copy(update={"partner": "rest.gguf", "draft_head": "head.gguf"})
    artifact = list_artifact_files(write(tmp_path / "first.gguf", named))
    assert [file.name for file in artifact.files] == ["first.gguf", "rest.gguf", "head.gguf"]
    (tmp_path / "rest.gguf").unlink()
    with pytest.raises(EdgeSkipError, match=r"rest\.gguf is missing"):
        list_artifact_files(tmp_path / "first.gguf")


def test_names_cannot_reach_out_of_the_folder(tmp_path: Path, manifest: GgufManifest) -> None:
    path = write(tmp_path / "first.gguf", manifest.model_copy(update={"partner": "../rest.gguf"}))
    with pytest.raises(EdgeSkipError, match=r"is damaged: it names the file '\.\./rest\.gguf'"):
        list_artifact_files(path)


def test_all_parts_of_a_split_file(tmp_path: Path) -> None:
    for number in (2, 3):
        (tmp_path / f"m-{number:05}-of-00003.gguf").write_bytes(b"part")
    artifact = list_artifact_files(write(tmp_path / "m-00001-of-00003.gguf"))
    assert [file.name for file in artifact.files] == [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
