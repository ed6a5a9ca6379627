"""Graphs derived for the page. Oracle: ONNX Runtime's Python package on the artifact's own graph, whose initializers it
can override."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from accepted import accept_changes
from web_artifacts import web_artifact

from edgeskip.bench.devices.web.artifact import WebArtifact
from edgeskip.bench.devices.web.graphs import derive, quantized_bytes, switches_of, weight_files
from edgeskip.bench.runner.request import BenchPrompt
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of
from edgeskip.runtime.engines.onnxruntime.runtime_graph import runtime_graph
from edgeskip.runtime.session import load

IDS = np.array([[5, 80, 200, 31, 7]], np.int64)


def session_of(path: Path, *, unpacked: bool = False) -> Any:
    options = onnxruntime.SessionOptions()
    if unpacked:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return onnxruntime.InferenceSession(runtime_graph(path.read_bytes()), options, providers=["CPUExecutionProvider"])


def feeds_of(session: Any, **switches: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    feeds = {"input_ids": IDS, "attention_mask": np.ones_like(IDS), **switches}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            feeds[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    return feeds


def derived(folder: Path, *, unpack: bool = False) -> Path:
    path = folder / "derived.onnx"  # beside its weights
    path.write_bytes(derive(folder / "model.onnx", unpack=unpack))
    return path


@pytest.mark.parametrize("kept", [1, 3, 5])
@pytest.mark.parametrize("skip", [False, True])
def test_switches_become_inputs_of_the_same_meaning(tiny_llama: Path, tmp_path: Path, kept: int, skip: bool) -> None:
    folder = web_artifact(tiny_llama, tmp_path, "skip-plan")
    switches = {"logits_to_keep": np.array([kept]), "skip": np.array([skip])}
    whole = session_of(folder / "model.onnx")
    expected = whole.run(None, feeds_of(whole, **switches))
    session = session_of(derived(folder))
    assert {"logits_to_keep", "skip"} <= {value.name for value in session.get_inputs()}
    found = session.run(None, feeds_of(session, **switches))
    assert found[0].shape == (1, kept, 320)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["whole", "skip-plan"])
def test_unpacked_matrices_are_what_the_int4_kernels_multiply_by(tiny_llama: Path, tmp_path: Path, kind: Any) -> None:
    folder = web_artifact(tiny_llama, tmp_path, kind, "int4")
    weights = sha256_of(folder / "model.onnx.data")
    path = derived(folder, unpack=True)
    nodes = onnx.load(path, load_external_data=False).graph.node
    assert "MatMulNBits" not in {node.op_type for node in _all(nodes)}
    # The oracle keeps activations in float32, as the unpacked graph does: accuracy level 4 would round them to int8.
    exact = onnx.load(folder / "model.onnx", load_external_data=False)
    for node in _all(exact.graph.node):
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    (folder / "exact.onnx").write_bytes(exact.SerializeToString())
    oracle = session_of(folder / "exact.onnx")
    for skip in (False, True) if kind == "skip-plan" else (False,):
        switches = {"logits_to_keep": np.array([5])} | ({"skip": np.array([skip])} if kind == "skip-plan" else {})
        expected = oracle.run(None, feeds_of(oracle, **switches))[0]
        session = session_of(path, unpacked=True)
        found = session.run(None, feeds_of(session, **switches))[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)
        assert np.abs(expected).max() > 1
    assert sha256_of(folder / "model.onnx.data") == weights
    assert quantized_bytes(folder / "model.onnx") > 4 * 320 * 64


def _all(nodes: Any) -> list[Any]:
    found = list(nodes)
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _all(attribute.g.node)
    return found


def test_what_is_no_graph_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08garbage")
    with pytest.raises(EdgeSkipError, match="an ONNX graph"):
        derive(tmp_path / "model.onnx")


def test_weights_outside_the_folder_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = web_artifact(tiny_llama, tmp_path, "whole")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../../etc/passwd"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(EdgeSkipError, match="outside its folder"):
        weight_files(folder / "model.onnx")


def test_the_page_is_told_what_the_manifest_says(tiny_llama: Path, tmp_path: Path) -> None:
    artifact = WebArtifact(web_artifact(tiny_llama, tmp_path, "exits"))
    told = artifact.description
    assert (told["kind"], told["kv_heads"], told["head_dim"], told["hidden_size"]) == ("chain", 2, 16, 64)
    assert told["attention_heads"] == 4
    assert [(g["kv_layers"], g["columns"], g["states_in"], g["states_out"]) for g in told["graphs"]] == [
        (2, 64, False, True),
        (1, 64, True, True),
        (1, 320, True, False),
    ]
    assert told["draft_tokens"] == np.load(artifact.path / "draft_tokens.npy").tolist()
    assert [file["name"] for file in told["weights"]] == ["model.onnx.data"]
    assert told["weights"][0]["sha256"] == sha256_of(artifact.path / "model.onnx.data")
    assert switches_of(derive(artifact.path / "verify.onnx")) == ["logits_to_keep"]


@pytest.mark.parametrize("template", [True, False])
def test_prompts_are_encoded_as_a_session_does(tiny_llama: Path, tmp_path: Path, template: bool) -> None:
    folder = web_artifact(tiny_llama, tmp_path, "whole")
    if not template:
        config = folder / "tokenizer_config.json"
        text = config.read_text(encoding="utf-8").replace('"chat_template"', '"no_template"')
        config.write_text(text, encoding="utf-8")
        accept_changes(config.parent)
    artifact = WebArtifact(folder)
    with load(folder, threads=1) as session:
        assert (session.chat_template is not None) == template
        for text in ("Skip what it does not need.", "é 你好", " "):
            assert artifact.encode(BenchPrompt(name="x", text=text)) == session.encode(text).tolist()
        assert artifact.description["end_tokens"] == sorted(session.end_tokens)


def test_a_gguf_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeSkipError, match="no browser runs"):
        WebArtifact(tmp_path / "model.gguf")
