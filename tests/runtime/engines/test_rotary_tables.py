"""A manifest that promises more positions than the graph has. Oracle: the onnx package's view of the same file."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from drafting_artifacts import early_exit_artifact, whole_artifact
from tiny_graph import TinyArtifact

from edgeskip.artifacts.manifest import Manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan
from edgeskip.models.source import open_model
from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from edgeskip.runtime.engines.onnxruntime.runtime_graph import rotary_positions
from edgeskip.runtime.engines.onnxruntime.split import OnnxRuntimeSplitEngine


def promising(manifest: Manifest, context_length: int) -> Manifest:
    graph = manifest.graph.model_copy(update={"context_length": context_length})
    return manifest.model_copy(update={"graph": graph})


def test_positions_of_the_tables(tiny_llama: Path, tmp_path: Path) -> None:
    source = open_model(str(tiny_llama))
    manifest = whole_artifact(source, tmp_path, Plan(source.decoder.config.num_blocks))
    graph = onnx.load(str(tmp_path / "model.onnx"), load_external_data=False).graph
    (rows,) = {table.dims[0] for table in graph.initializer if table.name.endswith(("cos_cache", "sin_cache"))}
    data = (tmp_path / "model.onnx").read_bytes()
    assert rotary_positions(data) == rows == manifest.graph.context_length
    OnnxRuntimeEngine(tmp_path, promising(manifest, rows - 1), threads=1).close()
    for context_length in (rows + 1, 10**7):
        with pytest.raises(EdgeSkipError, match=rf"context is {context_length} tokens, but .* covers {rows} positions"):
            OnnxRuntimeEngine(tmp_path, promising(manifest, context_length), threads=1)
    for damaged in (b"", data[:1000], b"\xff" * 100):
        try:
            assert rotary_positions(damaged) in (None, rows)
        except ValueError:
            continue


def test_every_graph_of_a_chain(tiny_llama: Path, tmp_path: Path) -> None:
    manifest = early_exit_artifact(open_model(str(tiny_llama)), tmp_path, (1,))
    with pytest.raises(EdgeSkipError, match=r"covers .* positions: export again"):
        OnnxRuntimeSplitEngine(tmp_path, promising(manifest, manifest.graph.context_length + 1), threads=1)


def test_a_graph_without_tables(tiny_artifact: TinyArtifact) -> None:
    assert rotary_positions((tiny_artifact.folder / "model.onnx").read_bytes()) is None
