"""Damaged graphs are named, not read. Oracle: one field of a good graph (read without a word) is damaged by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeskip.bench.devices.web.graphs import derive, quantized_bytes, weight_files
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.onnx_file import num_bytes, read_graph

N, K, BLOCK = 8, 32, 16


def build(folder: Path, change: Callable[[Any], object] = lambda model: None) -> Path:
    """A product with an int4 matrix in an external file, and an attention; `change` damages the model."""
    parts = {"w": N * K // 2, "s": 4 * N * K // BLOCK, "z": N * (K // BLOCK * 4 // 8)}
    tensors, offset = [], 0
    for name, size in parts.items():
        kind = TensorProto.FLOAT if name == "s" else TensorProto.UINT8
        tensor = TensorProto(name=name, data_type=kind, dims=[size // 4 if name == "s" else size])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w.data"), ("offset", offset), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
        offset += size
    (folder / "w.data").write_bytes(np.random.default_rng(0).bytes(offset))
    sizes = {"K": K, "N": N, "bits": 4, "block_size": BLOCK}
    nodes = [
        helper.make_node("MatMulNBits", ["x", "w", "s", "z"], ["y"], domain="com.microsoft", **sizes),
        helper.make_node("GroupQueryAttention", ["y"], ["v"], domain="com.microsoft", num_heads=2, kv_num_heads=1),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, None]) for name in ("x", "v")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    change(model)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_good_graph(tmp_path: Path) -> None:
    path = build(tmp_path)
    assert [num_bytes(tensor) for tensor in read_graph(path).graph.initializer] == [128, 64, 8]
    assert (weight_files(path), quantized_bytes(path)) == (["w.data"], 4 * K * N)
    onnx.load_from_string(derive(path, unpack=True))


def place(key: str, value: str | None) -> Callable[[Any], object]:
    def change(model: Any) -> None:
        entries = model.graph.initializer[0].external_data
        for entry in list(entries):
            if entry.key == key:
                entries.remove(entry)
        if value is not None:
            entries.add(key=key, value=value)

    return change


def shape(*sizes: int) -> Callable[[Any], object]:
    def change(model: Any) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(sizes)

    return change


def attribute(node: int, name: str, value: int | None) -> Callable[[Any], object]:
    def change(model: Any) -> None:
        attributes = model.graph.node[node].attribute
        found = next(one for one in attributes if one.name == name)
        if value is None:
            attributes.remove(found)
        else:
            found.i = value

    return change


def tensor(**fields: object) -> Callable[[Any], object]:
    return lambda model: [setattr(model.graph.initializer[0], name, value) for name, value in fields.items()]


def inputs(*names: str) -> Callable[[Any], object]:
    def change(model: Any) -> None:
        del model.graph.node[0].input[:]
        model.graph.node[0].input.extend(names)

    return change


def bytes_for(name: bytes, other: bytes) -> Callable[[Any], object]:
    """Of one length, as protobuf's writers refuse what is not UTF-8."""
    return lambda model: model.ParseFromString(model.SerializeToString().replace(name, other))


BAD: dict[str, tuple[Callable[[Any], object], str]] = {
    "no operator set": (lambda model: model.ClearField("opset_import"), "names no operator set"),
    "an offset that is no number": (place("offset", "x"), "the place of 'w' is not a number"),
    "an offset below 0": (place("offset", "-1"), "the place of 'w' is not a number"),
    "an offset of 5000 digits": (place("offset", "9" * 5000), "the place of 'w' is not a number"),
    "an offset beyond the file": (place("offset", str(10**12)), "'w' lies beyond the end of w.data"),
    "a length that is another": (place("length", "7"), "'w' has 7 bytes, its shape needs 128"),
    "a place outside": (place("location", "../w.data"), "names weights outside its folder"),
    "an absolute place": (place("location", "/dev/zero"), "names weights outside its folder"),
    "a place with NUL": (place("location", "w\0data"), "names weights outside its folder"),
    "a place that is no text": (bytes_for(b"w.data", b"w.d\xe9ta"), "StringStringEntryProto.value is not text: 'w.d"),
    "a name that is no text": (bytes_for(b"MatMulNBits", b"MatMul\xffBits"), "NodeProto.op_type is not text: 'MatMul"),
    "no place": (place("location", None), "names weights outside its folder"),
    "a size below 0": (shape(-1), "the shape of 'w' cannot be"),
    "a size of 2**62": (shape(2**62, 4), "the shape of 'w' cannot be"),
    "sizes whose product overflows": (shape(2**31, 2**31, 2**31), "the shape of 'w' cannot be"),
    "another shape": (shape(5), "'w' has 128 bytes, its shape needs 5"),
    "a type that is none": (tensor(data_type=99), "the type of 'w' is unknown"),
    "no type": (tensor(data_type=0), "the type of 'w' is unknown"),
    "no K": (attribute(0, "K", None), "has no K that can be"),
    "K of 0": (attribute(0, "K", 0), "has no K that can be"),
    "N below 0": (attribute(0, "N", -8), "has no N that can be"),
    "N of 2**62": (attribute(0, "N", 2**62), "has no N that can be"),
    "3 bits": (attribute(0, "bits", 3), "has bits or a block size that cannot be"),
    "blocks of 0": (attribute(0, "block_size", 0), "has no block_size that can be"),
    "no heads": (attribute(1, "num_heads", None), "has no num_heads that can be"),
    "a product without inputs": (inputs(), "lacks an input"),
    "nodes without outputs": (lambda model: model.graph.node[0].ClearField("output"), "lacks an input or output"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_damaged_graphs(name: str, tmp_path: Path) -> None:
    change, told = BAD[name]
    path = build(tmp_path, change)
    for read in (read_graph, weight_files, quantized_bytes, derive):
        with pytest.raises(EdgeSkipError, match=r"model\.onnx is damaged \(.*\).*export again") as caught:
            read(path)
        assert told in str(caught.value)


# What only who unpacks matrices meets.
UNPACKED: dict[str, tuple[Callable[[Any], object], str]] = {
    "N of 2**39": (attribute(0, "N", 2**39), "'w' does not have 8796093022208 bytes"),
    "a matrix that is not there": (inputs("x", "gone", "s", "z"), "'gone' does not have 128 bytes"),
    "scales that are not there": (inputs("x", "w", "gone", "z"), "'gone' does not have 16 numbers"),
    "the matrix as its own zero points": (inputs("x", "w", "s", "w"), "'w' does not have 8 bytes"),
}


@pytest.mark.parametrize("name", UNPACKED)
def test_matrices_that_cannot_be_unpacked(name: str, tmp_path: Path) -> None:
    change, told = UNPACKED[name]
    path = build(tmp_path, change)
    with pytest.raises(EdgeSkipError, match=r"model\.onnx is damaged \(.*\).*export again") as caught:
        derive(path, unpack=True)
    assert told in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"PK\x03\x04", b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_graph(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    for read in (read_graph, derive):
        with pytest.raises(EdgeSkipError, match=r"model\.onnx is (not an ONNX graph|damaged) \(.*\).*export again"):
            read(path)
