"""What a processor gives. Oracle: the onnx package for the model that is multiplied with; else loose bounds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgeskip.bench.runner import roofline
from edgeskip.bench.runner.roofline import measure_roofline


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_model_is_a_matmul(dtype: type[np.floating]) -> None:
    model = onnx.load_from_string(roofline._matmul_model(dtype, 300))
    onnx.checker.check_model(model, full_check=True)
    (node,) = model.graph.node
    assert (node.op_type, list(node.input), list(node.output)) == ("MatMul", ["A", "B"], ["C"])
    (shape,) = {tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in model.graph.input}
    (constant,) = model.graph.initializer
    assert (shape, constant.name) == ((300, 300), "B")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(constant), np.ones((300, 300), dtype))


def test_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between 100 MB/s and 10 TB/s, 0.1 and 100,000 GFLOP/s."""
    monkeypatch.setattr(roofline, "_READ_BYTES", 1 << 20)
    monkeypatch.setattr(roofline, "_CPU_SIDES", (64, 256))
    found = measure_roofline("cpu", 1)
    assert found.bytes_per_s is not None
    assert found.flops_per_s is not None
    assert 1e8 < found.bytes_per_s < 1e13
    assert 1e8 < found.flops_per_s < 1e14
    assert "sdot over 1 MiB a thread" in found.how
    assert "MatMul of 64 in float32" in found.how or "MatMul of 256 in float32" in found.how


def test_an_accelerator_that_is_not_there_is_not_guessed() -> None:
    found = measure_roofline("coreml", 1)
    assert (found.bytes_per_s, found.flops_per_s) == (None, None)
    assert "built without the provider 'coreml'" in found.how
