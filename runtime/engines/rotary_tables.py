"""How many positions the rotary tables of an ONNX model cover: beyond them GroupQueryAttention reads other memory."""

from __future__ import annotations

from edgeskip.runtime.engines.required_inputs import GRAPH_INITIALISER, MODEL_GRAPH, fields, name_of, read_varint

_TENSOR_DIMS = 1  # field number of onnx.proto3
_TABLES = ("cos_cache", "sin_cache")


def rotary_positions(model: bytes) -> int | None:
    """Return the rows of the shortest table in the ModelProto `model`; None if it has none.

    Raises:
        ValueError: If `model` is no protocol buffer.
    """
    rows = [
        _first_dimension(model, inner, stop)
        for number, _, content, end in fields(model)
        if number == MODEL_GRAPH
        for field, _, inner, stop in fields(model, content, end)
        if field == GRAPH_INITIALISER and name_of(model, inner, stop).endswith(_TABLES)
    ]
    return min(rows, default=None)


def _first_dimension(data: bytes, start: int, end: int) -> int:
    """Of a TensorProto; its dimensions come one by one or packed into one field."""
    for field, _, content, _ in fields(data, start, end):
        if field == _TENSOR_DIMS:
            return read_varint(data, content, end)[0]
    return 0
