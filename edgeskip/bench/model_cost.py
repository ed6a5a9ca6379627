"""The bytes and operations that a model needs, counted from an artifact's files; weights are not read.

Left out: norms, rotation and activations, under 1 %, and that the last FFN needs a prompt's last position only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgeskip.artifacts.manifest import read_manifest
from edgeskip.bench.schema import ModelCost
from edgeskip.core.bounds import first_problem
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.onnx_file import integers, num_bytes, read_graph

# llama.cpp keeps keys and values in float16 by default; our runtime asks for float32 if all weights are float32.
_GGUF_KV_BYTES, _GGUF_KV_BYTES_F32 = 2, 4


def model_cost_of(path: Path) -> ModelCost:
    """Count the cost of an artifact folder (its whole model's graph; needs the onnx package) or of a GGUF file.

    A decode step reads every matrix once and the keys and values of every position before it. 2 operations per weight,
    and in attention 2 · heads · (key length + value length) per position seen.
    """
    return _of_folder(path) if path.is_dir() else _of_gguf(path)


def _of_folder(folder: Path) -> ModelCost:
    record = read_manifest(folder).graph
    graph = read_graph(folder / record.file).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    behind = {name: name for name in weights}  # value -> the initializer it is, possibly transposed or reshaped
    kv_bytes = 2 if record.kv_dtype == "float16" else 4
    read: set[str] = set()  # by name, so that a shared weight counts once
    matmul = head = attention = kv = 0.0
    for node in _nodes(graph):
        if node.op_type in ("Transpose", "Reshape") and node.input[0] in behind:
            behind[node.output[0]] = behind[node.input[0]]
            continue
        sizes = integers(node)
        if node.op_type == "GroupQueryAttention":
            attention += 4.0 * sizes["num_heads"] * record.head_dim
            kv += 2.0 * sizes["kv_num_heads"] * record.head_dim * kv_bytes
            continue
        if node.op_type == "MatMulNBits":
            dims = (sizes["K"], sizes["N"])
        elif node.op_type in ("MatMul", "FusedMatMul", "Gemm") and node.input[1] in behind:
            dims = tuple(weights[behind[node.input[1]]].dims)
        else:
            continue
        read.update(behind[name] for name in node.input[1:] if name in behind)
        if record.vocab_size in dims:
            head += 2.0 * math.prod(dims)
        else:
            matmul += 2.0 * math.prod(dims)
    try:
        return ModelCost(
            weight_bytes=sum(num_bytes(weights[name]) for name in read),
            kv_bytes_per_token=kv,
            matmul_flops=matmul,
            head_flops=head,
            attention_flops=attention,
        )
    except ValidationError as error:
        raise EdgeSkipError(f"{folder / record.file} is damaged ({first_problem(error)}): export again") from None


def _nodes(graph: Any) -> list[Any]:
    """Return the graph's nodes; of an `If` those of the branch with more of them, the one that computes."""
    found: list[Any] = []
    for node in graph.node:
        branches: list[list[Any]] = [_nodes(a.g) for a in node.attribute if a.HasField("g")]
        found += sorted(branches, key=len)[-1] if branches else [node]
    return found


def _of_gguf(file: Path) -> ModelCost:
    from edgeskip.artifacts.gguf.header import read_gguf_header
    from edgeskip.artifacts.gguf.rules import check_gguf

    header = read_gguf_header(file)
    check_gguf(header, str(file), complete=False)
    head_name = "output.weight" if "output.weight" in header.tensors else "token_embd.weight"
    if head_name not in header.tensors:
        raise EdgeSkipError(f"{file} has neither output.weight nor token_embd.weight: it is not a whole language model")
    weight_bytes = matmul = head = attention = kv = 0.0
    for tensor in header.tensors.values():
        is_head = tensor.name == head_name
        if len(tensor.shape) < 2 or not (is_head or tensor.name.startswith("blk.")):
            continue  # norms and biases are under 1 %; of the embedding one row is read
        if len(tensor.shape) > 2:
            raise EdgeSkipError(f"{file}: {tensor.name} is a stack of experts; which of them run cannot be counted")
        weight_bytes += tensor.num_bytes
        if is_head:
            head += 2.0 * math.prod(tensor.shape)
        else:
            matmul += 2.0 * math.prod(tensor.shape)
    all_f32 = all(tensor.num_bytes == 4 * math.prod(tensor.shape) for tensor in header.tensors.values())
    kv_bytes = _GGUF_KV_BYTES_F32 if all_f32 else _GGUF_KV_BYTES
    for heads, kv_heads, key_length, value_length in attention_shapes(header.metadata):
        attention += 2.0 * heads * (key_length + value_length)
        kv += float(kv_bytes * kv_heads * (key_length + value_length))
    return ModelCost(
        weight_bytes=weight_bytes,
        kv_bytes_per_token=kv,
        matmul_flops=matmul,
        head_flops=head,
        attention_flops=attention,
    )


def attention_shapes(metadata: Mapping[str, Any]) -> list[tuple[int, int, int, int]]:
    """Return heads, key-value heads, key length and value length of each block's attention; heads 0 = none."""
    architecture = metadata.get("general.architecture")
    blocks = int(metadata.get(f"{architecture}.block_count", 0))

    def each(key: str, default: Any) -> list[int]:
        value = metadata.get(f"{architecture}.attention.{key}", default)
        values = value if isinstance(value, list) else [value] * blocks
        if len(values) < blocks:
            raise EdgeSkipError(f"{architecture}.attention.{key} has {len(values)} entries for {blocks} blocks")
        return values[:blocks]

    heads = each("head_count", 0)
    kv_heads = each("head_count_kv", heads)
    width = int(metadata.get(f"{architecture}.embedding_length", 0)) // max([1, *heads])
    key_lengths, value_lengths = each("key_length", width), each("value_length", width)
    return [(heads[i], kv_heads[i] if heads[i] else 0, key_lengths[i], value_lengths[i]) for i in range(blocks)]
