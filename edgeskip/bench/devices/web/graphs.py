"""Derives from an artifact's graph the one that onnxruntime-web can run: same weights, same result.

It feeds required inputs only, so initializers that may be overridden (`logits_to_keep`, `skip`) become such inputs.
And its WASM build has no int4 kernels: it widens every int4 matrix again in each step. Unpacked when the model is
loaded, the matrices take 8 times the memory and a decode step a fifteenth of the time.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.onnx_file import integers, num_bytes, parse_graph, read_graph
from edgeskip.runtime.engines.onnxruntime.runtime_graph import runtime_graph

# What the page feeds, of runtime/engines' SWITCHES: it decodes nothing online, so the gates' values stay as they are.
FED = frozenset({"logits_to_keep", "skip"})
_UNPACKED_OPSET = 21  # blocked DequantizeLinear


def derive(path: Path, *, unpack: bool = False) -> bytes:
    """Return the derived graph of the file at `path`; its weights stay in the external file, at the same places.

    With `unpack`, each int4 or int8 matrix product reads its matrix through a DequantizeLinear, which a session folds
    when it is opened with `session.disable_quant_qdq`. Raises EdgeSkipError if the file is not an ONNX graph.
    """
    try:
        data = runtime_graph(path.read_bytes(), FED, required=True)
    except ValueError as error:
        raise EdgeSkipError(f"{path} is not an ONNX graph ({error}); export again") from None
    model = parse_graph(data, path)
    graph = model.graph
    for output in graph.output:
        shape = output.type.tensor_type.shape
        if output.name == "logits" and len(shape.dim) == 3:  # declared as one position: right for the default alone
            shape.dim[1].dim_param = "kept"
    if unpack:
        _Unpacker(model, path).unpack()
    derived: bytes = model.SerializeToString()
    return derived


def switches_of(data: bytes) -> list[str]:
    """Return the switches that a derived graph takes."""
    import onnx

    return [value.name for value in onnx.load_from_string(data).graph.input if value.name in FED]


def attention_heads_of(data: bytes) -> int:
    """Return the number of query heads, the most of any attention in a graph; 0 if there is none."""
    import onnx

    nodes = onnx.load_from_string(data).graph.node
    attentions = [node for node in nodes if node.op_type == "GroupQueryAttention"]
    return max((a.i for node in attentions for a in node.attribute if a.name == "num_heads"), default=0)


def weight_files(path: Path) -> list[str]:
    """Return the names of the external files that hold a graph's initializers."""
    tensors = read_graph(path).graph.initializer
    return list(dict.fromkeys(entry.value for t in tensors for entry in t.external_data if entry.key == "location"))


def quantized_bytes(path: Path) -> int:
    """Return what the graph's int4 and int8 matrices take as float32; 0 if it has none."""
    products = {}
    for node in read_graph(path).graph.node:
        if node.op_type == "MatMulNBits":
            sizes = integers(node)
            products[node.input[1]] = 4 * sizes["K"] * sizes["N"]
    return sum(products.values())


class _Unpacker:
    """Puts MatMul(x, Transpose(DequantizeLinear(B))) in the place of MatMulNBits(x, B), in every branch."""

    def __init__(self, model: Any, path: Path) -> None:
        self._model, self._path = model, path
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._matrices: dict[tuple[str, ...], tuple[str, list[Any]]] = {}

    def unpack(self) -> None:
        opset = max(entry.version for entry in self._model.opset_import if entry.domain in ("", "ai.onnx"))
        if opset < _UNPACKED_OPSET:
            return
        graph = self._model.graph
        self._rewrite(graph)
        made = [node for _, nodes in self._matrices.values() for node in nodes]
        nodes = [*made, *graph.node]  # first, so that branches find them outside
        del graph.node[:]
        graph.node.extend(nodes)
        used = set(_names_read(graph))
        for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
            graph.initializer.remove(tensor)

    def _rewrite(self, graph: Any) -> None:
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    self._rewrite(attribute.g)
        nodes = [new for node in graph.node for new in self._replaced(node)]
        del graph.node[:]
        graph.node.extend(nodes)

    def _replaced(self, node: Any) -> list[Any]:
        from onnx import helper

        if node.op_type != "MatMulNBits":
            return [node]
        sizes = integers(node)
        inputs = [*node.input, "", "", ""][:6]
        if sizes["K"] % sizes["block_size"] or sizes["bits"] not in (4, 8) or inputs[4]:
            return [node]  # padded or permuted: left to the kernel there is
        matrix = self._matrix(inputs[1], inputs[2], inputs[3], sizes)
        product = f"{node.output[0]}/product" if inputs[5] else node.output[0]
        new = [helper.make_node("MatMul", [inputs[0], matrix], [product], name=node.name)]
        if inputs[5]:
            new.append(helper.make_node("Add", [product, inputs[5]], [node.output[0]], name=f"{node.name}/bias"))
        return new

    def _matrix(self, packed: str, scales: str, zeros: str, sizes: dict[str, int]) -> str:
        """Return the name of the float matrix [K, N] made of what is packed as [N, K]."""
        from onnx import TensorProto, helper

        key = (packed, scales, zeros)
        if key in self._matrices:
            return self._matrices[key][0]
        rows, columns, bits = sizes["N"], sizes["K"], sizes["bits"]
        blocks = columns // sizes["block_size"]
        self._check_size(packed, rows * columns * bits // 8)
        self._check_count(scales, rows * blocks)
        if zeros:
            self._check_size(zeros, rows * (-(-blocks * bits // 8)))
        kind = TensorProto.UINT4 if bits == 4 else TensorProto.UINT8
        matrix, scale = f"{packed}/packed", f"{scales}/blocks"
        self._alias(packed, matrix, kind, [rows, columns])
        self._alias(scales, scale, self._initializers[scales].data_type, [rows, blocks])
        zero = f"{packed}/zeros"
        values = self._zero_points(zeros, rows, blocks, bits)
        tensor = TensorProto(name=zero, data_type=kind, dims=[rows, blocks], raw_data=_packed(values, bits))
        self._model.graph.initializer.append(tensor)
        widened, name = f"{packed}/float", f"{packed}/matrix"
        self._matrices[key] = (
            name,
            [
                helper.make_node(
                    "DequantizeLinear", [matrix, scale, zero], [widened], axis=1, block_size=sizes["block_size"]
                ),
                helper.make_node("Transpose", [widened], [name], perm=[1, 0]),
            ],
        )
        return name

    def _check_size(self, name: str, size: int) -> None:
        tensor = self._initializers.get(name)
        if tensor is None or num_bytes(tensor) != size:
            raise EdgeSkipError(f"{self._path} is damaged ({name[:60]!r} does not have {size} bytes); export again")

    def _check_count(self, name: str, count: int) -> None:
        tensor = self._initializers.get(name)
        if tensor is None or math.prod(tensor.dims) != count:
            raise EdgeSkipError(f"{self._path} is damaged ({name[:60]!r} does not have {count} numbers); export again")

    def _alias(self, name: str, alias: str, kind: int, dims: list[int]) -> None:
        """Add the same bytes as another initializer, under another type and shape."""
        if any(tensor.name == alias for tensor in self._model.graph.initializer):
            return
        tensor = self._model.graph.initializer.add()
        tensor.CopyFrom(self._initializers[name])
        tensor.name, tensor.data_type = alias, kind
        del tensor.dims[:]
        tensor.dims.extend(dims)

    def _zero_points(self, name: str, rows: int, blocks: int, bits: int) -> NDArray[np.uint8]:
        """Return uint8 [rows · blocks]; each row starts a new byte; without `name` all are in the middle."""
        if not name:
            return np.full(rows * blocks, 1 << (bits - 1), np.uint8)
        stored = np.frombuffer(self._bytes_of(name), np.uint8).reshape(rows, -1)
        if bits == 4:
            stored = np.stack([stored & 15, stored >> 4], axis=-1).reshape(rows, -1)
        result: NDArray[np.uint8] = stored[:, :blocks].reshape(-1)
        return result

    def _bytes_of(self, name: str) -> bytes:
        tensor = self._initializers[name]
        place = {entry.key: entry.value for entry in tensor.external_data}
        if "location" not in place:
            from onnx import numpy_helper

            inline: bytes = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
        else:
            with (self._path.parent / place["location"]).open("rb") as file:
                file.seek(int(place.get("offset", 0)))
                inline = file.read(int(place["length"]))
        if len(inline) != num_bytes(tensor):
            raise EdgeSkipError(f"{self._path} is damaged ({name[:60]!r} is cut off): export again")
        return inline


def _packed(values: NDArray[np.uint8], bits: int) -> bytes:
    if bits == 8:
        return values.tobytes()
    if len(values) % 2:
        values = np.append(values, np.uint8(0))
    return (values[0::2] | (values[1::2] << 4)).astype(np.uint8).tobytes()


def _names_read(graph: Any) -> list[str]:
    names: list[str] = [output.name for output in graph.output]
    for node in graph.node:
        names += node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names += _names_read(attribute.g)
    return names
