"""Optional inputs made required, on the bytes of a model. Oracle: the onnx package does the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeskip.runtime.engines.required_inputs import with_required_inputs


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
    after = with_required_inputs(before.SerializeToString(), frozenset({"skip", "logits_to_keep", "absent"}))
    assert onnx.load_from_string(after) == expected
    onnx.checker.check_model(onnx.load_from_string(after))


def test_nothing_to_do_changes_no_byte() -> None:
    data = model(["a"]).SerializeToString()
    assert with_required_inputs(data, frozenset({"b"})) == data


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_cut_model_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="ONNX model"):
        with_required_inputs(model(["a", "b"]).SerializeToString()[:-cut], frozenset())


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no ONNX model"):
        with_required_inputs(b"\xff" * 30, frozenset())
