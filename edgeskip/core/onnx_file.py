"""An ONNX graph from a file that is not believed: what the rest of the code takes for granted is checked here once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeskip.core.errors import EdgeSkipError, MissingExtraError

_LARGEST = 1 << 40  # of a size, a count or an attribute that is one
# Attributes, all positive integers, without which a node is not what we write.
_NEEDED = {
    "GroupQueryAttention": ("num_heads", "kv_num_heads"),
    "MatMulNBits": ("K", "N", "bits", "block_size"),
}
_INPUTS = {"GroupQueryAttention": 1, "MatMulNBits": 3, "MatMul": 2, "FusedMatMul": 2, "Gemm": 2}


def read_graph(path: Path) -> Any:
    """Return the `onnx.ModelProto` in the file at `path`; weights in other files are not read.

    Raises:
        EdgeSkipError: If it is none, or does not pass `check_model`.
        OSError: If it cannot be read.
    """
    return parse_graph(path.read_bytes(), path)


def parse_graph(data: bytes, path: Path) -> Any:
    """Return the `onnx.ModelProto` that `data` is, which is of the file at `path` or made from it; see `read_graph`."""
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("onnx", "bench") from None
    try:
        model = onnx.load_from_string(data)
    except Exception as error:  # protobuf's own classes
        why = (str(error).splitlines() or ["not a protocol buffer"])[0]
        raise EdgeSkipError(f"{path} is not an ONNX graph ({why}); export again") from None
    check_model(model, path)
    return model


def check_model(model: Any, path: Path) -> None:
    """Check what readers of a graph rely on: an operator set; sizes, types and places of initializers, each within
    its file; inputs and attributes of attention and of matrix products.

    Raises:
        EdgeSkipError: If something of it is not there or cannot be.
    """
    try:
        _check_text(model)
        if not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
            raise ValueError("it names no operator set")
        for tensor in model.graph.initializer:
            _check_tensor(tensor, path.parent)
        for node in nodes_of(model.graph):
            _check_node(node)
    except ValueError as error:
        raise EdgeSkipError(f"{path} is damaged ({error}): export again") from None


def nodes_of(graph: Any) -> Iterator[Any]:
    """Yield every node, those of branches after the one that has them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)


def integers(node: Any) -> dict[str, int]:
    """Return the node's integer attributes by name."""
    return {attribute.name: attribute.i for attribute in node.attribute if attribute.HasField("i")}


def num_bytes(tensor: Any) -> int:
    """Return the size of an initializer (`onnx.TensorProto`) from its header.

    Raises:
        ValueError: If its type or shape cannot be.
    """
    import onnx

    name = _shown(tensor.name)
    if any(not 0 <= size <= _LARGEST for size in tensor.dims) or math.prod(tensor.dims) > _LARGEST:
        raise ValueError(f"the shape of {name} cannot be")
    if tensor.data_type in (onnx.TensorProto.UINT4, onnx.TensorProto.INT4):
        return int(-(-math.prod(tensor.dims) // 2))
    try:
        item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, ValueError, IndexError):
        raise ValueError(f"the type of {name} is unknown") from None
    return int(math.prod(tensor.dims) * item)


def _check_text(message: Any) -> None:
    """ValueError for a name that is not UTF-8: protobuf gives bytes for it, which nothing expects."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            for text in [value] if isinstance(value, (str, bytes)) else value:
                if isinstance(text, bytes):
                    raise ValueError(f"{field.full_name} is not text: {_shown(text.decode(errors='replace'))}")
        elif field.type == field.TYPE_MESSAGE:
            for one in [value] if hasattr(value, "ListFields") else value:
                _check_text(one)


def _check_tensor(tensor: Any, folder: Path) -> None:
    import onnx

    size, name = num_bytes(tensor), _shown(tensor.name)
    if tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data:
        if tensor.HasField("raw_data") and len(tensor.raw_data) != size:
            raise ValueError(f"{name} has {len(tensor.raw_data)} bytes, its shape needs {size}")
        return
    place = {entry.key: entry.value for entry in tensor.external_data}
    location = place.get("location", "")
    if location != Path(location).name or location in ("", "..") or "\0" in location:
        raise ValueError(f"it names weights outside its folder, {_shown(location)}")
    numbers = {key: place.get(key, "0" if key == "offset" else str(size)) for key in ("offset", "length")}
    if not all(text.isascii() and text.isdecimal() and len(text) < 20 for text in numbers.values()):
        raise ValueError(f"the place of {name} is not a number")
    offset, length = int(numbers["offset"]), int(numbers["length"])
    if length != size:
        raise ValueError(f"{name} has {length} bytes, its shape needs {size}")
    file = folder / location
    if file.is_file() and offset + length > file.stat().st_size:
        raise ValueError(f"{name} lies beyond the end of {location}")
    for entry in tensor.external_data:  # now written as readers expect it
        if entry.key == "length":
            break
    else:
        tensor.external_data.add(key="length", value=str(size))


def _check_node(node: Any) -> None:
    name = f"{_shown(node.op_type)} {_shown(node.name)}"
    if len(node.input) < _INPUTS.get(node.op_type, 0) or not node.output:
        raise ValueError(f"{name} lacks an input or output")
    if node.op_type in ("Transpose", "Reshape") and not node.input:
        raise ValueError(f"{name} lacks an input")
    found = integers(node)
    for attribute in _NEEDED.get(node.op_type, ()):
        if not 0 < found.get(attribute, 0) <= _LARGEST:
            raise ValueError(f"{name} has no {attribute} that can be")
    if node.op_type == "MatMulNBits" and not (found["bits"] in (2, 4, 8) and 16 <= found["block_size"] <= 1 << 16):
        raise ValueError(f"{name} has bits or a block size that cannot be")


def _shown(name: str) -> str:
    return repr(name[:60])
