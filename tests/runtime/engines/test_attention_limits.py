"""Head sizes that ONNX Runtime's attention takes. Oracle: the installed ONNX Runtime, asked with one operator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from exports import export_onnx
from random_profiles import random_profile
from tiny_models import tiny_checkpoint

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.models.decoder import Attention
from edgeskip.models.source import open_model
from edgeskip.runtime.engines.onnxruntime.attention_limits import head_size_problem


def _runs(size: int, *, rotary: bool) -> bool:
    """Whether GroupQueryAttention with one head of that size runs one token."""
    x, past = np.ones((1, 1, size), np.float32), np.ones((1, 1, 0, size), np.float32)
    feeds = {"q": x, "k": x, "v": x, "pk": past, "pv": past, "s": np.zeros(1, np.int32), "t": np.array(1, np.int32)}
    if rotary:
        feeds |= {"cos": np.ones((4, size // 2), np.float32), "sin": np.zeros((4, size // 2), np.float32)}
    inputs = [
        ir.Value(name=name, shape=ir.Shape(a.shape), type=ir.TensorType(ir.tensor(a).dtype))
        for name, a in feeds.items()
    ]
    sizes = {"num_heads": 1, "kv_num_heads": 1, "do_rotary": int(rotary)}
    attributes = [ir.AttrInt64(name, value) for name, value in sizes.items()]
    node = ir.Node("com.microsoft", "GroupQueryAttention", inputs, attributes, num_outputs=3)
    for output, name in zip(node.outputs, ("y", "ok", "ov"), strict=True):
        output.name, output.type = name, ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": 21, "com.microsoft": 1}, name="g")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    data = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    try:
        session.run(None, feeds)
    except Exception as error:  # onnxruntime's own types
        if "head_size" not in str(error):
            raise
        return False
    return True


@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("size", [2, 8, 12, 16, 20, 24, 32, 72, 80, 96, 100, 104, 112, 120, 128, 200])
def test_the_rule_is_the_runtimes(size: int, rotary: bool, tiny_llama: Path) -> None:
    decoder = open_model(str(tiny_llama)).decoder
    attentions = [replace(s, rotary=rotary) if isinstance(s, Attention) else s for s in decoder.sublayers]
    config = replace(decoder.config, head_dim=size)
    found = head_size_problem(replace(decoder, config=config, sublayers=tuple(attentions)))
    assert (found is None) == _runs(size, rotary=rotary)


def test_an_export_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = tiny_checkpoint("llama", tmp_path / "m", hidden_size=200, num_attention_heads=2, num_key_value_heads=2)
    source = open_model(str(model))
    profile, vectors = random_profile(source, tmp_path / "p.json")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(EdgeSkipError, match=r"head size is 100, .*multiples of 16 .*--target gguf"):
        export_onnx(source, profile, vectors, WeightFormat("fp32"), tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_skipped_attentions_do_not_count(tiny_llama: Path) -> None:
    decoder = open_model(str(tiny_llama)).decoder
    decoder = replace(decoder, config=replace(decoder.config, head_dim=100))
    every = [s.sublayer for s in decoder.sublayers if isinstance(s, Attention)]
    assert head_size_problem(decoder, every) is None
    assert head_size_problem(decoder, every[1:]) is not None
