"""Makes optional inputs of an ONNX model required: the same graph without the values it would fall back on.

An input that also is an initialiser may be left out of a run. Providers that compile a graph take such a value for a
constant, and onnxruntime-web cannot be fed it; without the initialiser it is an input like the others. Works on the
bytes of the file (protocol buffers' wire format, https://protobuf.dev/programming-guides/encoding), as the runtime
does without the onnx package; weights are in another file and stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator

# Field numbers of onnx.proto3.
MODEL_GRAPH, GRAPH_INITIALISER, _TENSOR_NAME = 7, 5, 8
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def with_required_inputs(model: bytes, names: frozenset[str]) -> bytes:
    """The ModelProto `model` without its graph's initialisers called `names`, its other bytes as they were.

    ValueError where `model` is no protocol buffer.
    """
    result = bytearray()
    for number, start, content, end in fields(model):
        if number == MODEL_GRAPH:
            graph = b"".join(
                model[begin:stop]
                for field, begin, inner, stop in fields(model, content, end)
                if field != GRAPH_INITIALISER or name_of(model, inner, stop) not in names
            )
            result += bytes([MODEL_GRAPH << 3 | _LENGTH]) + _varint(len(graph)) + graph
        else:
            result += model[start:end]
    return bytes(result)


def name_of(data: bytes, start: int, end: int) -> str:
    """A TensorProto's name."""
    found = [data[content:stop] for field, _, content, stop in fields(data, start, end) if field == _TENSOR_NAME]
    return found[-1].decode() if found else ""


def fields(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, start of the content and end of each field of the message in `data[start:end]`."""
    end = len(data) if end is None else end
    while start < end:
        key, content = read_varint(data, start, end)
        kind = key & 7
        if kind == _VARINT:
            stop = read_varint(data, content, end)[1]
        elif kind == _LENGTH:
            length, content = read_varint(data, content, end)
            stop = content + length
        elif kind in (_FIXED32, _FIXED64):
            stop = content + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError(f"wire type {kind} at byte {start}: this is no ONNX model")
        if stop > end:
            raise ValueError(f"a field at byte {start} goes beyond its message: this ONNX model is cut off")
        yield key >> 3, start, content, stop
        start = stop


def read_varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """The number at `start` and where it ends; ValueError if it does not end."""
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
