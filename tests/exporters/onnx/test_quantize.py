"""Block-wise quantization. Oracles: plain round-to-nearest in numpy, weights that lie on a grid, and ONNX Runtime's
own MatMulNBits and GatherBlockQuantized."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.onnx.quantize import Quantized, dequantize, quantize


def gaussian(rows: int, columns: int, seed: int = 0) -> Any:
    """Normal weights with outliers, offset row by row so that zero points matter."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(rows, columns)) * 0.05
    weight[rng.random((rows, columns)) < 0.01] *= 8
    return (weight + rng.normal(size=(rows, 1)) * 0.02).astype(np.float32)


def nearest(weight: Any, bits: int, block: int, symmetric: bool) -> Any:
    """Round-to-nearest with the range of each block, the textbook way."""
    w = weight.reshape(len(weight), -1, block).astype(np.float64)
    if symmetric:
        scale = np.abs(w).max(axis=-1, keepdims=True) / (2 ** (bits - 1) - 0.5)
        scale[scale == 0] = 1
        q = np.clip(np.rint(w / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return (q * scale).reshape(weight.shape)
    low, high = np.minimum(w.min(-1, keepdims=True), 0), np.maximum(w.max(-1, keepdims=True), 0)
    scale = (high - low) / (2**bits - 1)
    scale[scale == 0] = 1
    zero = np.rint(-low / scale)
    q = np.clip(np.rint(w / scale) + zero, 0, 2**bits - 1)
    return ((q - zero) * scale).reshape(weight.shape)


def block_errors(weight: Any, other: Any, block: int) -> Any:
    return np.square((weight - other).astype(np.float64).reshape(len(weight), -1, block)).sum(axis=-1)


def restored(weight: Any, bits: int, block: int, symmetric: bool) -> Any:
    return dequantize(quantize(weight, bits=bits, block_size=block, symmetric=symmetric), bits=bits, block_size=block)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_no_worse_than_rounding_to_nearest(bits: int, block: int, symmetric: bool) -> None:
    """Every block with zero points; on average without, where the textbook's range has another middle."""
    weight = gaussian(300, 256)
    ours = block_errors(weight, restored(weight, bits, block, symmetric), block)
    plain = block_errors(weight, nearest(weight, bits, block, symmetric), block)
    if not symmetric:
        assert (ours <= plain * (1 + 1e-4) + 1e-12).all()
    assert ours.sum() < (0.97 if bits == 4 else 1.0) * plain.sum()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_weights_on_a_grid_are_recovered(bits: int, symmetric: bool) -> None:
    """By hand: whole numbers in range times a scale per block are representable exactly."""
    rng = np.random.default_rng(0)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (-3, 2**bits - 4)
    values = rng.integers(low, high + 1, size=(40, 4, 32))
    values[..., 0], values[..., 1] = low, high  # the whole range occurs
    scales = rng.uniform(0.001, 2.0, size=(40, 4, 1))
    weight = (values * scales).reshape(40, 128).astype(np.float32)
    np.testing.assert_allclose(restored(weight, bits, 32, symmetric), weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [0.0, 0.3, -0.7, 1e-30, -1e-38, 1e15])
def test_constant_blocks(bits: int, symmetric: bool, value: float) -> None:
    """By hand: one number is on some grid; the result is finite and that number."""
    weight = np.full((3, 96), value, np.float32)
    weight[1, 32:64] = 0
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_allclose(restored(weight, bits, 32, symmetric), weight, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_block_of_one_outlier(bits: int) -> None:
    """By hand: the outlier stays, its neighbours vanish in its step."""
    weight = np.full((1, 32), 1e-3, np.float32)
    weight[0, 5] = 100.0
    result = restored(weight, bits, 32, False)
    assert result[0, 5] == pytest.approx(100, rel=1e-5)
    assert np.abs(np.delete(result[0], 5)).max() < 1e-2


def test_shapes_and_padding() -> None:
    """The MatMulNBits specification: B [N, K/block, block·bits/8], zero points [N, ceil(K/block·bits/8)]."""
    four = quantize(gaussian(5, 96), bits=4, block_size=32, symmetric=False)
    assert four.zero_points is not None
    assert (four.blocks.shape, four.scales.shape, four.zero_points.shape) == ((5, 3, 16), (5, 3), (5, 2))
    eight = quantize(gaussian(5, 96), bits=8, block_size=32, symmetric=False)
    assert eight.zero_points is not None
    assert (eight.blocks.shape, eight.scales.shape, eight.zero_points.shape) == ((5, 3, 32), (5, 3), (5, 3))
    assert quantize(gaussian(5, 96), bits=4, block_size=32, symmetric=True).zero_points is None
    for array in (four.blocks, four.zero_points, eight.blocks):
        assert array.dtype == np.uint8


def test_rows_are_independent() -> None:
    """Rows are quantized in chunks by several threads: a chunk's edge must not show. Oracle: row by row."""
    weight = gaussian(600, 64)
    together = restored(weight, 4, 32, False)
    for row in (0, 255, 256, 511, 512, 599):
        np.testing.assert_array_equal(together[row : row + 1], restored(weight[row : row + 1], 4, 32, False))


@pytest.mark.parametrize(("columns", "block"), [(80, 32), (33, 16), (64, 128)])
def test_a_width_that_is_no_multiple_is_refused(columns: int, block: int) -> None:
    with pytest.raises(EdgeSkipError, match=rf"{columns} is not one of {block}: choose a smaller --block-size"):
        quantize(gaussian(4, columns), bits=4, block_size=block, symmetric=False)


def run_node(op: str, operand: Any, packed: Quantized, table: Any, output_shape: list[int], **attributes: Any) -> Any:
    """One operator in onnxruntime."""
    import onnxruntime

    constants = {"table": table, "scales": packed.scales}
    if packed.zero_points is not None:
        constants["zero_points"] = packed.zero_points
    order = ["x", "table"] if op == "MatMulNBits" else ["table", "x"]
    names = [*order, "scales", *(["zero_points"] if packed.zero_points is not None else [])]
    node = helper.make_node(op, names, ["y"], domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(operand.dtype), operand.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": operand})[0]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("columns", "block"), [(96, 32), (128, 32), (48, 16), (192, 64), (128, 128)])
@pytest.mark.parametrize("bits", [4, 8])
def test_matmul_nbits_reads_what_we_pack(bits: int, columns: int, block: int, symmetric: bool) -> None:
    """Oracle: onnxruntime's operator against x @ dequantize(w).T; odd and even numbers of blocks in a row."""
    weight = gaussian(24, columns)
    packed = quantize(weight, bits=bits, block_size=block, symmetric=symmetric)
    expected = dequantize(packed, bits=bits, block_size=block)
    for rows in (1, 5):
        x = np.random.default_rng(1).normal(size=(rows, columns)).astype(np.float32)
        options = {"N": 24, "K": columns, "bits": bits, "block_size": block}
        exact = run_node("MatMulNBits", x, packed, packed.blocks, [rows, 24], accuracy_level=1, **options)
        np.testing.assert_allclose(exact, x @ expected.T, rtol=1e-4, atol=1e-4)
        rounded = run_node("MatMulNBits", x, packed, packed.blocks, [rows, 24], accuracy_level=4, **options)
        np.testing.assert_allclose(rounded, x @ expected.T, rtol=0, atol=0.05)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("columns", [96, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_gather_block_quantized_reads_what_we_pack(bits: int, columns: int, symmetric: bool) -> None:
    """Oracle: onnxruntime's operator against rows of dequantize(w): the embedding of a tied head reads its bytes."""
    packed = quantize(gaussian(24, columns), bits=bits, block_size=32, symmetric=symmetric)
    ids = np.array([[3, 0, 23, 3]], np.int64)
    rows = run_node(
        "GatherBlockQuantized",
        ids,
        packed,
        packed.blocks.reshape(24, -1),
        [1, 4, columns],
        bits=bits,
        block_size=32,
        gather_axis=0,
        quantize_axis=1,
    )
    np.testing.assert_allclose(rows, dequantize(packed, bits=bits, block_size=32)[ids], rtol=1e-6, atol=1e-7)
