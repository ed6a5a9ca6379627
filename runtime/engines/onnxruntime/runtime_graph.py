"""An artifact's graph as this runtime runs it, made from the file when it is loaded.

The file is made so that other programs load it without a warning. Here

- the switches (`SWITCHES`: how many positions' logits, what to skip) become inputs. In the file they are constants,
  because ONNX Runtime warns about inputs with a default value;
- `position_ids` is removed. Optimum needs that input, but no operator reads it, since GroupQueryAttention counts
  positions itself;
- the check that no prompt is padded on the left is removed. A single sequence is never padded, and a GPU would have to
  send the result back in every step before the next operator could start.
"""

from __future__ import annotations

from edgeskip.runtime.engines.onnxruntime.model_bytes import (
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    INT64,
    NODE_NAME,
    TENSOR_DIMS,
    TENSOR_NAME,
    TENSOR_RAW,
    TENSOR_TYPE,
    VALUE_NAME,
    VALUE_TYPE,
    graph_fields,
    integer_field,
    integers,
    length_field,
    string_field,
    with_graph_fields,
)

SWITCHES = frozenset({"logits_to_keep", "skip", "ffn_skip", "ffn_scale", "ffn_watch"})
POSITIONS = "position_ids"
# The name of a node is what ONNX Runtime shows if it fails.
LEFT_PADDING = "prompts padded on the left are not supported: run prompts of one length, or one by one"
PADDING_FIRST, PADDING_LEAST, PADDING_INDEX = "padding/first", "padding/least", "padding/index"
_PADDING = frozenset((PADDING_FIRST, PADDING_LEAST, PADDING_INDEX))
_ROTARY_TABLES = ("cos_cache", "sin_cache")
_TENSOR_TYPE, _SHAPE_OF_TENSOR, _ELEMENT, _DIMENSION, _SIZE = 1, 2, 1, 1, 1  # TypeProto and what is in it


def runtime_graph(model: bytes, switches: frozenset[str] = SWITCHES, *, required: bool = False) -> bytes:
    """Return the ModelProto `model` as this runtime runs it; older artifacts' graphs, which lack some of this, as well.

    Args:
        switches: Which of the graph's constants become inputs.
        required: Without a value to fall back on: providers that compile take it for a constant, and onnxruntime-web
            cannot override it.

    Raises:
        ValueError: if `model` is not a protocol buffer.
    """
    inputs: set[str] = set()
    tensors: dict[str, bytes] = {}
    checked = False
    for field, content in graph_fields(model):
        if field == GRAPH_INPUT:
            inputs.add(string_field(content, VALUE_NAME))
        elif field == GRAPH_INITIALIZER and (name := string_field(content, TENSOR_NAME)) in switches:
            tensors[name] = content
        elif field == GRAPH_NODE and string_field(content, NODE_NAME) == PADDING_INDEX:
            checked = True

    def keep(field: int, content: bytes) -> bool:
        if field == GRAPH_INPUT:
            return string_field(content, VALUE_NAME) != POSITIONS
        if field == GRAPH_INITIALIZER:
            return not required or string_field(content, TENSOR_NAME) not in switches
        return field != GRAPH_NODE or string_field(content, NODE_NAME) not in _PADDING

    added = b"".join(_as_input(name, tensor) for name, tensor in tensors.items() if name not in inputs)
    if checked:
        added += length_field(GRAPH_INITIALIZER, _zero(f"{PADDING_INDEX}.out"))
    return with_graph_fields(model, keep, added)


def _as_input(name: str, tensor: bytes) -> bytes:
    """Return the graph's input of an initializer's name, type and shape."""
    sizes = (length_field(_DIMENSION, integer_field(_SIZE, size)) for size in integers(tensor, TENSOR_DIMS))
    shape = length_field(_SHAPE_OF_TENSOR, b"".join(sizes))
    kind = length_field(_TENSOR_TYPE, integer_field(_ELEMENT, integers(tensor, TENSOR_TYPE)[-1]) + shape)
    return length_field(GRAPH_INPUT, length_field(VALUE_NAME, name.encode()) + length_field(VALUE_TYPE, kind))


def _zero(name: str) -> bytes:
    """Return the TensorProto of an int64 0 []."""
    kind, value = integer_field(TENSOR_TYPE, INT64), length_field(TENSOR_RAW, bytes(8))
    return kind + length_field(TENSOR_NAME, name.encode()) + value


def rotary_positions(model: bytes) -> int | None:
    """Return the rows of the shortest table in the ModelProto `model`; None if it has none.

    Raises:
        ValueError: If `model` is not a protocol buffer.
    """
    rows = [
        next(iter(integers(tensor, TENSOR_DIMS)), 0)
        for field, tensor in graph_fields(model)
        if field == GRAPH_INITIALIZER and string_field(tensor, TENSOR_NAME).endswith(_ROTARY_TABLES)
    ]
    return min(rows, default=None)
