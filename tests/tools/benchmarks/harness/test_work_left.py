"""Bytes and operations counted from a graph. Oracle: hand calculation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from harness.work_left import Work, prediction, work_of
from onnx import TensorProto, helper, numpy_helper

import edgeskip.bench.model_cost
from edgeskip.artifacts.manifest import GraphRecord

WIDTH, VOCABULARY, HEAD_DIM = 32, 100, 8


def write_graph(folder: Path, *, attention: bool) -> None:
    """A projection in 4 bits, attention where asked, a fp32 product and a head tied to the embedding."""
    weights = {
        "packed": np.zeros((WIDTH, 1, 16), np.uint8),  # 32×32 weights of 4 bits, one block a row
        "scales": np.zeros((WIDTH, 1), np.float32),
        "plain": np.zeros((WIDTH, 64), np.float32),
        "embedding": np.zeros((VOCABULARY, WIDTH), np.float32),
        "norm": np.zeros(WIDTH, np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["embedding", "ids"], ["x"]),
        helper.make_node("SimplifiedLayerNormalization", ["x", "norm"], ["n"]),
        helper.make_node("MatMulNBits", ["n", "packed", "scales"], ["q"], K=WIDTH, N=WIDTH, bits=4, block_size=32),
        helper.make_node("MatMul", ["q", "plain"], ["f"]),
        helper.make_node("MatMul", ["f", "f"], ["g"]),  # of activations: no weight
        helper.make_node("Transpose", ["embedding"], ["columns"], perm=[1, 0]),
        helper.make_node("MatMul", ["g", "columns"], ["logits"]),
    ]
    if attention:
        nodes.insert(4, helper.make_node("GroupQueryAttention", ["f"], ["a"], num_heads=4, kv_num_heads=2))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "n"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    folder.mkdir()
    onnx.save(helper.make_model(graph), folder / "model.onnx")


@pytest.fixture(autouse=True)
def manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    record = GraphRecord(
        precision="int4",
        kv_dtype="float32",
        logits_dtype="float32",
        num_kv_layers=1,
        num_kv_heads=2,
        head_dim=HEAD_DIM,
        vocab_size=VOCABULARY,
        context_length=64,
    )
    manifest = type("Manifest", (), {"graph": record})
    monkeypatch.setattr(edgeskip.bench.model_cost, "read_manifest", lambda folder: manifest)


def test_work_of_a_graph(tmp_path: Path) -> None:
    write_graph(tmp_path / "dense", attention=True)
    work = work_of(tmp_path / "dense", prompt_tokens=10, new_tokens=4)
    weights = WIDTH * 16 + WIDTH * 4 + WIDTH * 64 * 4 + VOCABULARY * WIDTH * 4
    seen = 12  # positions at the middle of decoding
    assert work.decode_bytes == weights + 2 * 2 * HEAD_DIM * 4 * seen
    assert work.decode_flops == 2 * (32 * 32 + 32 * 64 + 100 * 32) + 4 * 4 * HEAD_DIM * seen
    assert work.prefill_flops == 10 * 2 * (32 * 32 + 32 * 64) + 2 * 100 * 32 + 4 * 4 * HEAD_DIM * 55


def test_skipped_attention_leaves_its_share(tmp_path: Path) -> None:
    write_graph(tmp_path / "dense", attention=True)
    write_graph(tmp_path / "skipped", attention=False)
    dense, skipped = (work_of(tmp_path / name, prompt_tokens=10, new_tokens=4) for name in ("dense", "skipped"))
    assert dense.decode_flops - skipped.decode_flops == 4 * 4 * HEAD_DIM * 12
    assert prediction(skipped, dense).decode < 1


def test_prediction_takes_the_larger_ratio() -> None:
    predicted = prediction(Work(70.0, 80.0, 30.0), Work(100.0, 100.0, 60.0))
    assert predicted.decode == 0.8
    assert predicted.prefill_flops_ratio == 0.5
