"""Reading an artifact's manifest. Oracle: the manifest that conftest.py writes, damaged one way at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeskip.artifacts.manifest import Manifest, read_manifest
from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.core.errors import EdgeSkipError


def test_written_and_read_again(artifact_path: Path) -> None:
    manifest = read_manifest(artifact_path)
    assert manifest.label == "lossy-skip"
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


def _drop(*keys: str) -> Callable[[dict[str, Any]], None]:
    def damage(manifest: dict[str, Any]) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        del manifest[keys[-1]]

    return damage


def _set(value: object, *keys: str) -> Callable[[dict[str, Any]], None]:
    def damage(manifest: dict[str, Any]) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return damage


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_drop("graph", "head_dim"), "graph.head_dim"),
        (_set("many", "graph", "num_kv_heads"), "graph.num_kv_heads"),
        (_set("fp8", "graph", "precision"), "graph.precision"),
        (_set("../../etc/passwd", "graph", "file"), "graph.file"),
        (_set({"block_size": 0}, "graph", "quantisation"), r"graph.quantisation.*a block cannot have 0 weights"),
        (_set({"block_size": "x"}, "graph", "quantisation"), r"graph.quantisation.*a block cannot have x weights"),
        (_set({"block_size": True}, "graph", "quantisation"), r"graph.quantisation.*a block cannot have True weights"),
        (_set("lossless", "label"), "label"),
        (_set(7, "version"), "version"),
        (_set("x", "surprise"), "surprise"),
    ],
)
def test_damage_is_told_by_field(artifact_path: Path, damage: Callable[[dict[str, Any]], None], told: str) -> None:
    path = artifact_path / MANIFEST_NAME
    manifest = json.loads(path.read_text())
    damage(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(EdgeSkipError, match=told) as error:
        read_manifest(artifact_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "edgeskip-profile"}', "\udcff"])
def test_what_is_not_a_manifest(artifact_path: Path, text: str) -> None:
    (artifact_path / MANIFEST_NAME).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(EdgeSkipError, match="damaged"):
        read_manifest(artifact_path)


def test_folders_that_are_no_artifacts(tmp_path: Path) -> None:
    with pytest.raises(EdgeSkipError, match=r"has no edgeskip\.json"):
        read_manifest(tmp_path)
    with pytest.raises(EdgeSkipError, match="not an artifact folder"):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("context_length", [0, -1, 10**9, 10**30, 1.7]),
        ("num_kv_heads", [0, -1, 10**12, 1.5]),
        ("head_dim", [0, 10**12]),
        ("vocab_size", [0, -5, 10**12]),
        ("num_kv_layers", [-1, 10**9]),
    ],
)
def test_graphs_that_no_machine_runs(artifact_path: Path, field: str, values: list[float]) -> None:
    path = artifact_path / MANIFEST_NAME
    content = json.loads(path.read_text())
    for value in values:
        path.write_text(json.dumps(content | {"graph": content["graph"] | {field: value}}))
        with pytest.raises(EdgeSkipError, match=rf"graph\.{field}"):
            read_manifest(artifact_path)
