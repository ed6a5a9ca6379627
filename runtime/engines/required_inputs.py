"""Makes optional inputs of an ONNX model required: the same graph without the values it would fall back on.

An input that also is an initialiser may be left out of a run. Providers that compile a graph take such a value for a
constant, and onnxruntime-web cannot be fed it; without the initialiser it is an input like the others. Works on the
bytes of the file (protocol buffers' wire format, https://protobuf.dev/programming-guides/encoding), as the runtime
does without the onnx package; weights are in another file and stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

# Field numbers of onnx.proto3.
_MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALISER = 1, 5
NODE_NAME, TENSOR_NAME = 3, 8
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def with_required_inputs(model: bytes, names: frozenset[str]) -> bytes:
    """The ModelProto `model` without its graph's initialisers called `names`, its other bytes as they were.

    ValueError where `model` is no protocol buffer.
    """
    return with_graph_fields(
        model, lambda field, inner: field != GRAPH_INITIALISER or string_field(inner, TENSOR_NAME) not in names
    )


def with_graph_fields(model: bytes, keep: Callable[[int, bytes], bool], added: bytes = b"") -> bytes:
    """The ModelProto `model` with only those fields of its graph that `keep` (number, content) wants.

    `added`: encoded fields that the graph gets besides. ValueError where `model` is no protocol buffer.
    """
    result = bytearray()
    for number, start, content, end in _fields(model):
        if number == _MODEL_GRAPH:
            graph = added + b"".join(
                model[begin:stop]
                for field, begin, inner, stop in _fields(model, content, end)
                if keep(field, model[inner:stop])
            )
            result += length_field(_MODEL_GRAPH, graph)
        else:
            result += model[start:end]
    return bytes(result)


def string_field(message: bytes, number: int) -> str:
    """The string in field `number` of a message; "" where it has none."""
    found = [message[content:stop] for field, _, content, stop in _fields(message) if field == number]
    return found[-1].decode() if found else ""


def length_field(number: int, content: bytes) -> bytes:
    """A field of bytes, text or a message, encoded; `number` is below 16."""
    return bytes([number << 3 | _LENGTH]) + _varint(len(content)) + content


def _fields(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, start of the content and end of each field of the message in `data[start:end]`."""
    end = len(data) if end is None else end
    while start < end:
        key, content = _read_varint(data, start, end)
        kind = key & 7
        if kind == _VARINT:
            stop = _read_varint(data, content, end)[1]
        elif kind == _LENGTH:
            length, content = _read_varint(data, content, end)
            stop = content + length
        elif kind in (_FIXED32, _FIXED64):
            stop = content + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError(f"wire type {kind} at byte {start}: this is no ONNX model")
        if stop > end:
            raise ValueError(f"a field at byte {start} goes beyond its message: this ONNX model is cut off")
        yield key >> 3, start, content, stop
        start = stop


def _read_varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for place in range(start, min(end, start + 10)):
        value |= (data[place] & 0x7F) << shift
        if data[place] < 0x80:
            return value, place + 1
        shift += 7
    raise ValueError(f"a number at byte {start} does not end: this is no ONNX model")


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)
