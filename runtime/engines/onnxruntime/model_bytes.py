"""Read and rewrite the bytes of an ONNX model without the onnx package, which the runtime does not need otherwise.

protocol buffers' wire format, https://protobuf.dev/programming-guides/encoding; field numbers of onnx.proto3. Weights
are in another file and stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

_MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT = 1, 5, 11
NODE_NAME = 3
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9
VALUE_NAME, VALUE_TYPE = 1, 2
INT64 = 7  # TensorProto.DataType
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def with_graph_fields(model: bytes, keep: Callable[[int, bytes], bool], added: bytes = b"") -> bytes:
    """Return the ModelProto `model` with only those fields of its graph that `keep` (number, content) wants.

    `added`: further encoded fields for the graph. ValueError if `model` is not a protocol buffer.
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


def graph_fields(model: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of every field of the model's graph; ValueError if `model` is not a protocol buffer."""
    for number, _, content, end in _fields(model):
        if number == _MODEL_GRAPH:
            for field, _, inner, stop in _fields(model, content, end):
                yield field, model[inner:stop]


def integers(message: bytes, number: int) -> list[int]:
    """Return the numbers in field `number` of a message, repeated one by one or packed."""
    found: list[int] = []
    for field, start, content, stop in _fields(message):
        if field != number:
            continue
        if message[start] & 7 == _VARINT:
            found.append(_read_varint(message, content, stop)[0])
            continue
        while content < stop:
            value, content = _read_varint(message, content, stop)
            found.append(value)
    return found


def byte_fields(message: bytes, number: int) -> list[bytes]:
    """Return the contents of every field `number` of a message: bytes, texts or messages."""
    return [message[content:stop] for field, _, content, stop in _fields(message) if field == number]


def with_fields(message: bytes, number: int, change: Callable[[bytes], bytes]) -> bytes:
    """Return the message with what `change` makes of the contents of every field `number`, which is below 16."""
    return b"".join(
        length_field(number, change(message[content:stop])) if field == number else message[start:stop]
        for field, start, content, stop in _fields(message)
    )


def string_field(message: bytes, number: int) -> str:
    """Return the string in field `number` of a message; "" if it has none."""
    found = byte_fields(message, number)
    return found[-1].decode() if found else ""


def integer_field(number: int, value: int) -> bytes:
    """Return a field of a number, encoded; `number` is below 16."""
    return bytes([number << 3 | _VARINT]) + _varint(value)


def length_field(number: int, content: bytes) -> bytes:
    """Return a field of bytes, text or a message, encoded; `number` is below 16."""
    return bytes([number << 3 | _LENGTH]) + _varint(len(content)) + content


def _fields(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, start, start of the content and end of each field of the message in `data[start:end]`."""
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
