"""What an artifact's remaining weights and floating-point operations predict for its time, against the dense one's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeskip.manifest import read_manifest


@dataclass(frozen=True)
class Work:
    """Bytes read and floating-point operations done, for one decode step and for one prefill."""

    decode_bytes: float
    decode_flops: float
    prefill_flops: float


def work_of(folder: Path, *, prompt_tokens: int, new_tokens: int) -> Work:
    """Counted from the graph itself, weights unread.

    Decode: every weight of a matrix product once, and the keys and values of the mean position; 2 operations per
    weight and, in attention, 4 · heads · head_dim per position seen. Prefill: the same over the prompt's positions,
    causally, with the head on the last one only. Left out: norms, rotation and
    activations, under 1 %, and that the last FFN needs the last position only.
    """
    import onnx

    graph_record = read_manifest(folder).graph
    graph = onnx.load(folder / graph_record.file, load_external_data=False).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    behind = {name: name for name in weights}  # value -> the initialiser it is, possibly transposed or reshaped
    kv_bytes = 2 if graph_record.kv_dtype == "float16" else 4
    positions = prompt_tokens + new_tokens / 2
    read: set[str] = set()  # by name, so that a shared weight counts once
    decode_flops = prefill_flops = kv = 0.0
    for node in graph.node:
        if node.op_type in ("Transpose", "Reshape") and node.input[0] in behind:
            behind[node.output[0]] = behind[node.input[0]]
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "GroupQueryAttention":
            per_pair = 4.0 * attributes["num_heads"] * graph_record.head_dim
            decode_flops += per_pair * positions
            prefill_flops += per_pair * prompt_tokens * (prompt_tokens + 1) / 2
            kv += 2.0 * attributes["kv_num_heads"] * graph_record.head_dim * kv_bytes * positions
            continue
        if node.op_type == "MatMulNBits":
            dims = (attributes["K"], attributes["N"])
        elif node.op_type in ("MatMul", "FusedMatMul", "Gemm") and node.input[1] in behind:
            dims = tuple(weights[behind[node.input[1]]].dims)
        else:
            continue
        read.update(behind[name] for name in node.input[1:] if name in behind)
        decode_flops += 2.0 * math.prod(dims)
        prefill_flops += 2.0 * math.prod(dims) * (1 if graph_record.vocab_size in dims else prompt_tokens)
    return Work(sum(_nbytes(weights[name]) for name in read) + kv, decode_flops, prefill_flops)


@dataclass(frozen=True)
class Prediction:
    """Predicted time over the dense artifact's; decode is bound by bytes or by operations, so by the larger ratio."""

    decode_bytes_ratio: float
    decode_flops_ratio: float
    prefill_flops_ratio: float

    @property
    def decode(self) -> float:
        return max(self.decode_bytes_ratio, self.decode_flops_ratio)


def prediction(skipped: Work, dense: Work) -> Prediction:
    return Prediction(
        skipped.decode_bytes / dense.decode_bytes,
        skipped.decode_flops / dense.decode_flops,
        skipped.prefill_flops / dense.prefill_flops,
    )


def _nbytes(tensor: Any) -> int:
    """Size of an initialiser (`onnx.TensorProto`) from its header; packed 4-bit weights are stored as uint8."""
    import onnx

    return int(math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
