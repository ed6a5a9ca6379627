"""How many positions the rotary tables of an ONNX model cover: beyond them GroupQueryAttention reads other memory."""

from __future__ import annotations

from edgeskip.runtime.engines.onnxruntime.model_bytes import (
    GRAPH_INITIALISER,
    TENSOR_DIMS,
    TENSOR_NAME,
    graph_fields,
    integers,
    string_field,
)

_TABLES = ("cos_cache", "sin_cache")


def rotary_positions(model: bytes) -> int | None:
    """Return the rows of the shortest table in the ModelProto `model`; None if it has none.

    Raises:
        ValueError: If `model` is no protocol buffer.
    """
    rows = [
        next(iter(integers(tensor, TENSOR_DIMS)), 0)
        for field, tensor in graph_fields(model)
        if field == GRAPH_INITIALISER and string_field(tensor, TENSOR_NAME).endswith(_TABLES)
    ]
    return min(rows, default=None)
