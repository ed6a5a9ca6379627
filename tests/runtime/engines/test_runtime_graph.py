"""What the runtime makes of a graph's bytes when it loads it. Oracle: the onnx package does the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeskip.runtime.engines.onnxruntime.runtime_graph import runtime_graph


def model(names: list[str], *, size: int = 3) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.arange(size, dtype=np.float32) + i, name) for i, name in enumerate(names)]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size]) for name in names]
    nodes = [helper.make_node("Sum", names, ["y"])]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [size])
    graph = helper.make_graph(nodes, "g", inputs, [output], weights, doc_string="δ" * 200)
    return helper.make_model(graph, producer_name="test", opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("size", [3, 50, 5000])  # lengths of one, two and three bytes
def test_only_the_named_initialisers_go(size: int) -> None:
    before = model(["a", "skip", "logits_to_keep"], size=size)
    expected = onnx.ModelProto()
    expected.CopyFrom(before)
    del expected.graph.initializer[1:]
    after = runtime_graph(before.SerializeToString(), frozenset({"skip", "logits_to_keep", "absent"}), required=True)
    assert onnx.load_from_string(after) == expected
    onnx.checker.check_model(onnx.load_from_string(after))


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
@pytest.mark.parametrize("shape", [(), (1,), (300,), (2, 3)])
@pytest.mark.parametrize("required", [False, True])
def test_constants_become_inputs(dtype: type, shape: tuple[int, ...], required: bool) -> None:
    before = model(["a"])
    before.graph.initializer.append(numpy_helper.from_array(np.ones(shape, dtype), "skip"))
    expected = onnx.ModelProto()
    expected.CopyFrom(before)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    expected.graph.input.insert(0, helper.make_tensor_value_info("skip", kind, shape))
    if required:
        del expected.graph.initializer[-1]
    after = runtime_graph(before.SerializeToString(), frozenset({"skip"}), required=required)
    assert onnx.load_from_string(after) == expected


def test_an_input_for_others_alone_goes() -> None:
    before = model(["a"])
    expected = before.SerializeToString()
    before.graph.input.append(helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "sequence"]))
    assert runtime_graph(before.SerializeToString()) == expected


def test_nothing_to_do_changes_no_byte() -> None:
    data = model(["a"]).SerializeToString()
    assert runtime_graph(data, frozenset({"b"})) == data


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_cut_model_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="ONNX model"):
        runtime_graph(model(["a", "b"]).SerializeToString()[:-cut])


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no ONNX model"):
        runtime_graph(b"\xff" * 30)
