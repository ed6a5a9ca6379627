"""The check in an ONNX graph that no prompt is padded on the left, and the same graph without it.

A GPU would have to send the answer back in every step before the next operator could start, and nothing is padded here:
this runtime runs one sequence. So providers other than the CPU get the graph with the answer "no" in place of the check.
"""

from __future__ import annotations

from edgeskip.runtime.engines.required_inputs import (
    GRAPH_INITIALISER,
    GRAPH_NODE,
    NODE_NAME,
    length_field,
    string_field,
    with_graph_fields,
)

# The name of a node is what ONNX Runtime shows if it fails.
LEFT_PADDING = "prompts padded on the left are not supported: run prompts of one length, or one by one"
PADDING_INDEX = "padding/index"
_NODES = frozenset(("padding/first", "padding/least", PADDING_INDEX))
_INT64 = 7  # onnx.proto3, TensorProto.DataType
_TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 2, 8, 9


def without_padding_check(model: bytes) -> bytes:
    """Return the ModelProto `model` with 0, "not padded", in place of what its check computes; others as they are.

    Raises:
        ValueError: if `model` is no protocol buffer.
    """
    found: list[str] = []

    def keep(field: int, content: bytes) -> bool:
        checks = field == GRAPH_NODE and string_field(content, NODE_NAME) in _NODES
        if checks:
            found.append(string_field(content, NODE_NAME))
        return not checks

    zero = bytes([_TENSOR_TYPE << 3, _INT64])
    zero += length_field(_TENSOR_NAME, f"{PADDING_INDEX}.out".encode()) + length_field(_TENSOR_RAW, bytes(8))
    rewritten = with_graph_fields(model, keep, length_field(GRAPH_INITIALISER, zero))
    return rewritten if found else model
